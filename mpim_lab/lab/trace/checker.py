"""Checker: from what was sent and what arrived to a Verdict."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import Trace


@dataclass(frozen=True)
class Verdict:
    """What a run did to its messages; equal runs have equal verdicts.

    Args:
        sent: how many were sent.
        delivered: how many were handled, at least once.
        lost: never handled, and not known to be anywhere.
        duplicated: handled more than once.
        reordered: handled after a later one of their conversation.
        silently_lost: lost, although acknowledged to the sender.
        stalled: in a pending list, neither lost nor handled.
        dead_lettered: in the dead-letter queue, neither lost nor handled.
        acknowledgement: the word by which the sender heard of it: "delivered" or "added".
        altered: handled as another text.

    Message ids are in the order they were sent.
    """

    sent: int
    delivered: int
    lost: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()
    silently_lost: tuple[str, ...] = ()
    stalled: tuple[str, ...] = ()
    dead_lettered: tuple[str, ...] = ()
    acknowledgement: str = "delivered"
    altered: tuple[str, ...] = ()

    @property
    def semantics(self) -> str:
        """The observed delivery semantics in the field's words; one run proves no guarantee."""
        observed = {
            (False, False): "exactly once in this run"
            if not self.stalled + self.dead_lettered
            else "nothing lost, nothing twice, not all done",
            (True, False): "at most once",
            (False, True): "at least once",
            (True, True): "neither at most once nor at least once",
        }[bool(self.lost), bool(self.duplicated)]
        order = "out of order" if self.reordered else "in order"
        return f"{observed}, {order}{', not as it was sent' if self.altered else ''}"

    def __str__(self) -> str:
        counts = f"sent {self.sent:,}  delivered {self.delivered:,}"
        always = {"lost": self.lost, "duplicated": self.duplicated, "reordered": self.reordered}
        sometimes = {
            f'acknowledged "{self.acknowledgement}" but lost': self.silently_lost,
            "stalled, pending or never delivered": self.stalled,
            "dead letters": self.dead_lettered,
            "read as another text": self.altered,
        }
        ids = always | {name: found for name, found in sometimes.items() if found}
        lines = [counts] + [f"{name} {len(found)}{_shown(found)}" for name, found in ids.items()]
        return "\n".join([*lines, f"observed: {self.semantics}"])

    __repr__ = __str__


def _shown(ids: tuple[str, ...], most: int = 12) -> str:
    if not ids:
        return ""
    return f"  ({', '.join(ids[:most])}{', …' if len(ids) > most else ''})"


def check(
    sent: Sequence[str],
    handled: Sequence[str],
    acknowledged: Iterable[str] = (),
    *,
    stalled: Iterable[str] = (),
    dead_lettered: Iterable[str] = (),
    acknowledgement: str = "delivered",
    conversation_of: Mapping[str, str] | None = None,
) -> Verdict:
    """Compare what was sent with what one receiver handled.

    Args:
        sent: the ids that were sent, in order.
        handled: the ids that were handled, in the receiver's order.
        acknowledged: the ids that were acknowledged to the sender.
        stalled: the ids in a pending list.
        dead_lettered: the ids in the dead-letter queue.
        acknowledgement: the word for the sender's acknowledgement.
        conversation_of: each id's conversation, if there are several: order is kept within each
            of them, not between them.

    Returns:
        The verdict.

    Examples:
        >>> check(["m1", "m2", "m3"], ["m3", "m1", "m1"]).semantics
        'neither at most once nor at least once, out of order'
        >>> check(["m1", "m2"], ["m2", "m1"], conversation_of={"m1": "ann", "m2": "bob"}).reordered
        ()
    """
    times = Counter(handled)
    position = {message: index for index, message in enumerate(sent)}
    unfinished = [message for message in sent if not times[message]]
    in_pending, given_up, confirmed = set(stalled), set(dead_lettered), set(acknowledged)
    lost = tuple(message for message in unfinished if message not in in_pending | given_up)
    late = _late(handled, position, conversation_of or {})
    return Verdict(
        sent=len(sent),
        delivered=len(sent) - len(unfinished),
        lost=lost,
        duplicated=tuple(message for message in sent if times[message] > 1),
        reordered=tuple(message for message in sent if message in late),
        silently_lost=tuple(message for message in lost if message in confirmed),
        stalled=tuple(message for message in unfinished if message in in_pending - given_up),
        dead_lettered=tuple(message for message in unfinished if message in given_up),
        acknowledgement=acknowledgement,
    )


def _late(
    handled: Sequence[str], position: Mapping[str, int], conversation_of: Mapping[str, str]
) -> set[str]:
    """Which were handled after a later one of their conversation."""
    late, last = set(), dict[str, int]()  # of each conversation, the furthest that was handled
    for message in dict.fromkeys(handled):  # a duplicate is not also a reordering
        conversation = conversation_of.get(message, "")
        furthest = last.get(conversation, -1)
        late |= {message} if position.get(message, furthest) < furthest else set()
        last[conversation] = max(furthest, position.get(message, furthest))
    return late


def check_trace(trace: Trace, receiver: str, channel: str) -> Verdict:
    """Judge one receiver's messages in a trace.

    Args:
        trace: of the run.
        receiver: the actor whose handling counts.
        channel: the channel; messages of any sender count.

    Returns:
        The verdict.
    """

    def ids(*kinds: EventKind, actor: str | None = None, outcome: str | None = None) -> list[str]:
        return [
            event.message_id
            for event in trace.by_kind(*kinds)
            if event.channel == channel
            and actor in (None, event.actor)
            and outcome in (None, event.outcome)
        ]

    sent = list(dict.fromkeys(ids(EventKind.CHECKED, EventKind.ACCEPTED, EventKind.OUTCOME)))
    return check(
        sent, ids(EventKind.HANDLED, actor=receiver), ids(EventKind.OUTCOME, outcome="delivered")
    )


def check_effects(trace: Trace, channel: str) -> Verdict:
    """Judge a stream's messages by their effects, whoever had them.

    Args:
        trace: of the run.
        channel: the stream; messages of any sender and effects of any consumer count.

    Returns:
        The verdict.
    """

    def ids(kind: EventKind) -> list[str]:
        return [event.message_id for event in trace.by_kind(kind) if event.channel == channel]

    sent = list(dict.fromkeys(ids(EventKind.ACCEPTED)))
    stalled, dead = ids(EventKind.STALLED), ids(EventKind.DEAD_LETTERED)
    return check(
        sent,
        ids(EventKind.EFFECT),
        ids(EventKind.ADDED),
        stalled=stalled,
        dead_lettered=dead,
        acknowledgement="added",
    )

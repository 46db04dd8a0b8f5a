"""Checker: from what was sent and what arrived to a Verdict."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpim_lab.events import Kind
from mpim_lab.lab.trace import Trace


@dataclass(frozen=True)
class Verdict:
    """What a run did to its messages; ids in the order they were sent. Equal runs have equal verdicts.

    `misreported` are the ids whose sender was told "delivered" although nobody handled them.
    """

    sent: int
    delivered: int
    lost: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()
    misreported: tuple[str, ...] = ()

    @property
    def semantics(self) -> str:
        """Which delivery semantics was observed, in the field's words; one run proves no guarantee."""
        observed = {
            (False, False): "exactly once in this run",
            (True, False): "at most once",
            (False, True): "at least once",
            (True, True): "neither at most once nor at least once",
        }[bool(self.lost), bool(self.duplicated)]
        return f"{observed}, {'out of order' if self.reordered else 'in order'}"

    def __str__(self) -> str:
        counts = f"sent {self.sent:,}  delivered {self.delivered:,}"
        ids = {"lost": self.lost, "duplicated": self.duplicated, "reordered": self.reordered}
        lines = [counts] + [f"{name} {len(found)}{_shown(found)}" for name, found in ids.items()]
        if self.misreported:
            lines.append(f'told "delivered" but lost {len(self.misreported)}{_shown(self.misreported)}')
        return "\n".join([*lines, f"observed: {self.semantics}"])

    __repr__ = __str__


def _shown(ids: tuple[str, ...], most: int = 12) -> str:
    if not ids:
        return ""
    return f"  ({', '.join(ids[:most])}{', …' if len(ids) > most else ''})"


def check(sent: Sequence[str], handled: Sequence[str], told_delivered: Iterable[str] = ()) -> Verdict:
    """Compare the ids that were sent with the ids one receiver handled, in its order.

    >>> check(["m1", "m2", "m3"], ["m3", "m1", "m1"]).semantics
    'neither at most once nor at least once, out of order'
    """
    times = Counter(handled)
    position = {message: index for index, message in enumerate(sent)}
    lost = tuple(message for message in sent if not times[message])
    late, highest = set(), -1
    for message in dict.fromkeys(handled):  # a duplicate is not also a reordering
        late |= {message} if position.get(message, highest) < highest else set()
        highest = max(highest, position.get(message, highest))
    return Verdict(
        sent=len(sent),
        delivered=len(sent) - len(lost),
        lost=lost,
        duplicated=tuple(message for message in sent if times[message] > 1),
        reordered=tuple(message for message in sent if message in late),
        misreported=tuple(message for message in lost if message in set(told_delivered)),
    )


def check_trace(trace: Trace, receiver: str, channel: str) -> Verdict:
    """Judge one receiver's messages in a trace: begun by any sender for `channel`, handled by `receiver`."""

    def ids(*kinds: Kind, actor: str | None = None, detail: str | None = None) -> list[str]:
        return [
            event.message_id
            for event in trace.of(*kinds)
            if event.channel == channel and actor in (None, event.actor) and detail in (None, event.detail)
        ]

    sent = list(dict.fromkeys(ids(Kind.CHECKED, Kind.ACCEPTED, Kind.TOLD)))
    return check(sent, ids(Kind.HANDLED, actor=receiver), ids(Kind.TOLD, detail="delivered"))

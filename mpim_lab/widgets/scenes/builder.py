"""Scene builder: from a Trace to what a picture shows.

All decisions are made here; whatever draws only draws.

A picture's time is counted in *steps*: every attempt to send takes one, in the order of the
attempts. Clock times differ from run to run, and the order in which two connections hear of one
message does, too; steps do not, so a picture of a seeded run is the same every time. Within its
step a message leaves at 0, is at the server at 0.35 and arrives at 0.7.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar

from mpim_lab import errors
from mpim_lab.events import Event, EventKind
from mpim_lab.keys import is_ack_channel
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets.scenes.im_builder import build_im_scene, has_hops, sampling_note
from mpim_lab.widgets.scenes.scene import Band, Leg, MessageHistory, Scene

AT_SERVER, ARRIVES, CONFIRMED_AT = 0.35, 0.7, 0.95
SERVER_FAULTS, SENDER_FAULTS = ("kill", "pause"), ("flush fails",)
POOL = "pool"  # the channel of those who wait for a connection
ACKNOWLEDGEMENTS = ("delivered", "added", "accepted", "done")  # outcomes that acknowledge a message


def build_scene(trace: Trace, *, finished: bool = True) -> Scene:
    """Build the scene of a trace.

    While a run goes on (`finished=False`) what has not arrived is on its way, not lost.
    """
    if has_hops(trace):
        return build_im_scene(trace, finished=finished)
    builder = _SceneBuilder()
    # Load processes report batch by batch.
    for event in _senders_first(sorted(trace.events, key=lambda event: event.at)):
        builder.add(event)
    return builder.scene(finished, sampling_note(trace))


def _senders_first(events: list[Event]) -> list[Event]:
    """Where a stream keeps messages.

    Of each turn (one message, until the next one is sent) the sender's events first.

    A sender that repeats and a worker that has the first copy in hand run side by side; who is
    heard first is luck.
    """
    if not any(event.kind is EventKind.ADDED for event in events):
        return events
    senders = {event.actor for event in events if event.kind is EventKind.ACCEPTED}
    turn, last = 0, ""
    keyed: list[tuple[int, bool, Event]] = []
    for event in events:
        if event.kind is EventKind.ACCEPTED and event.message_id != last:
            turn, last = turn + 1, event.message_id
        keyed.append((turn, event.actor not in senders or event.kind is EventKind.STALLED, event))
    return [event for _, _, event in sorted(keyed, key=lambda each: each[:2])]


# Of no message, or drawn by another builder; faults and subscriptions are handled by `add` itself.
IGNORED = frozenset(
    {
        EventKind.HOP,
        EventKind.CONNECTED,
        EventKind.DISCONNECTED,
        EventKind.RESUBSCRIBED,
        EventKind.UNSUBSCRIBED,
    }
)
HANDLED_BY_ADD = frozenset({EventKind.FAULT_BEGAN, EventKind.FAULT_ENDED, EventKind.SUBSCRIBED})


class _SceneBuilder:
    """Builder that takes events in order and makes the scene."""

    def __init__(self) -> None:
        self.stories: dict[str, MessageHistory] = {}
        self.step = 0  # of the attempt that is going on; the first is 1
        # Message → steps of its attempts that may still arrive.
        self._began: dict[str, list[int]] = {}
        # Message → the step in which the batch that it waited for left.
        self._left: dict[str, int] = {}
        self.producers: dict[str, None] = {}
        self.channels: dict[str, None] = {}
        self.consumers: dict[str, None] = {}
        self.faults: dict[str, tuple[str, float]] = {}  # kind → who had it, since which step
        self.bands: list[tuple[str, str, float, float]] = []
        self.handled: Counter[str] = Counter()
        self.acknowledgement = "delivered"

    def add(self, event: Event) -> None:
        """Add the next event."""
        if event.kind is EventKind.FAULT_BEGAN:
            self.faults[event.detail] = next(reversed(self.consumers), ""), self.step + 0.9
        elif event.kind is EventKind.FAULT_ENDED:
            self.bands.append(
                (event.detail, *self.faults.pop(event.detail, ("", 0.0)), self.step + 0.9)
            )
        elif event.kind is EventKind.SUBSCRIBED and not is_ack_channel(event.channel):
            self.channels[event.channel] = self.consumers[event.actor] = None
        elif event.message_id and not is_ack_channel(event.channel):
            handle = self.HANDLERS.get(event.kind)
            if handle is not None:
                handle(
                    self,
                    self.stories.setdefault(event.message_id, MessageHistory(event.message_id)),
                    event,
                )

    def _other(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor}: {event.kind}")

    def _checked(self, story: MessageHistory, event: Event) -> None:
        listeners = "nobody listens" if not event.count else f"{event.count} listen"
        story.log.append(f"{event.actor} asked the server who is there: {listeners}")
        self.producers[event.actor] = None

    def _accepted(self, story: MessageHistory, event: Event) -> None:
        self.step += 1
        self.producers[event.actor] = self.channels[event.channel] = None
        did = "asked for a connection" if event.channel == POOL else "published it"
        story.log.append(f"{event.actor} {did}{' again' if story.legs else ''}")
        story.legs.append(Leg(event.actor, event.channel, self.step, self.step + AT_SERVER))
        self._began.setdefault(story.id, []).append(self.step)

    def _batched(self, story: MessageHistory, event: Event) -> None:
        """It waited until here: its way to the server ends now."""
        story.log.append(f"it left in a batch of {event.count}")
        self._left[story.id] = self.step
        last = story.legs[-1]
        story.legs[-1] = Leg(
            last.source, last.target, last.begin, self.step + AT_SERVER, last.outcome
        )

    def _published(self, story: MessageHistory, event: Event) -> None:
        count = event.count or 0
        story.log.append(f"the server handed it to {count} subscriber{'' if count == 1 else 's'}")
        if not count and self._began.get(story.id):
            self._end_attempt(story)

    def _end_attempt(self, story: MessageHistory) -> None:
        """The attempt ended at the server: mark its leg, and expect nothing of it."""
        step = self._began[story.id].pop()
        for index, leg in enumerate(story.legs):
            if leg.begin == step and leg.outcome == "arrived":
                story.legs[index] = Leg(leg.source, leg.target, leg.begin, leg.end, "lost")

    def _failed(self, story: MessageHistory, event: Event) -> None:
        name = event.error
        story.log.append(f"{event.actor} failed: {name}")
        if (story.is_kept or event.channel == POOL) and event.actor in self.consumers:
            if not any(leg.target == event.actor for leg in story.legs):
                self._deliver(story, event, "lost")
            return
        if getattr(getattr(errors, name, None), "definite", False) and self._began.get(story.id):
            self._end_attempt(story)

    def _received(self, story: MessageHistory, event: Event) -> None:
        self.consumers[event.actor] = None
        if event.count is None:
            story.log.append(f"it arrived at {event.actor}")
            return
        story.is_kept = True
        story.log.append(f"the stream gave it to {event.actor}, for the {_nth(event.count)} time")

    def _handled(self, story: MessageHistory, event: Event) -> None:
        if not story.is_kept:  # of a stream's message it is the effect that counts
            self._effect(story, event)

    def _effect(self, story: MessageHistory, event: Event) -> None:
        self.handled[story.id] += 1
        story.log.append(f"{event.actor} {'did its work' if story.is_kept else 'handled it'}")
        self._deliver(story, event)

    def _deliver(self, story: MessageHistory, event: Event, outcome: str = "arrived") -> None:
        """Draw its way from the server to who has it now."""
        attempts = self._began.get(story.id) or [self.step]
        began = attempts.pop(0) if len(attempts) > 1 else attempts[0]
        began = self._left.get(story.id, began)
        story.legs.append(
            Leg(event.channel, event.actor, began + AT_SERVER, self.step + ARRIVES, outcome)
        )

    def _added(self, story: MessageHistory, event: Event) -> None:
        story.is_kept = True
        story.log.append("the stream keeps it")

    def _crashed(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor} crashed: {event.detail}")
        # After its work, its way is drawn already.
        if not any(leg.target == event.actor for leg in story.legs):
            self._deliver(story, event, "lost")

    def _stalled(self, story: MessageHistory, event: Event) -> None:
        story.is_stalled = True
        if story.is_kept:
            story.log.append("at the end nobody has finished it")
            return
        story.log.append(event.detail or "at the end it still waits")
        first = story.legs[0]
        story.legs[0] = Leg(first.source, first.source, first.begin, self.step + AT_SERVER)

    def _dead_lettered(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor or 'the group'} gave it up, a dead letter: {event.detail}")
        story.fate = "dead-lettered"
        failed = [leg for leg in story.legs if leg.outcome == "lost"]
        if failed:
            last = failed[-1]
            story.legs[story.legs.index(last)] = Leg(
                last.source, last.target, last.begin, last.end, "dead-lettered"
            )

    def _acked(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor} acknowledged it")

    def _claimed(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor} claimed it from who had it")

    def _retried(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor} tries it again, for the {_nth(event.count or 0)} time")

    def _dropped(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor} dropped it: {event.detail}")

    def _confirmed(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"the confirmation came back to {event.actor}")
        if self.consumers:
            receiver = next(iter(self.consumers))
            story.legs.append(
                Leg(
                    receiver,
                    event.actor,
                    self.step + ARRIVES,
                    self.step + CONFIRMED_AT,
                    "confirmation",
                )
            )

    def _outcome(self, story: MessageHistory, event: Event) -> None:
        story.log.append(f"{event.actor} got the outcome: {event.outcome}")
        if not story.legs:  # given up before publishing
            self.step += 1
            self.producers[event.actor] = None
            story.legs.append(Leg(event.actor, event.actor, self.step, self.step + 0.1, "lost"))
        story.silently_lost = event.outcome in ACKNOWLEDGEMENTS
        self.acknowledgement = event.outcome if story.silently_lost else self.acknowledgement

    HANDLERS: ClassVar[
        dict[EventKind, Callable[["_SceneBuilder", MessageHistory, Event], None]]
    ] = {
        EventKind.CHECKED: _checked,
        EventKind.ACCEPTED: _accepted,
        EventKind.BATCHED: _batched,
        EventKind.PUBLISHED: _published,
        EventKind.FAILED: _failed,
        EventKind.RECEIVED: _received,
        EventKind.HANDLED: _handled,
        EventKind.EFFECT: _effect,
        EventKind.ADDED: _added,
        EventKind.CRASHED: _crashed,
        EventKind.STALLED: _stalled,
        EventKind.DEAD_LETTERED: _dead_lettered,
        EventKind.ACKED: _acked,
        EventKind.CLAIMED: _claimed,
        EventKind.RETRIED: _retried,
        EventKind.DROPPED: _dropped,
        EventKind.CONFIRMED: _confirmed,
        EventKind.OUTCOME: _outcome,
        EventKind.RELEASED: _other,
    }

    def scene(self, finished: bool, note: str) -> Scene:
        """Return the scene of all events so far."""
        for story in self.stories.values():
            times = self.handled[story.id]
            if story.fate != "dead-lettered" or times:
                ended = "lost" if finished and not story.is_stalled else "pending"
                story.fate = "duplicated" if times > 1 else "delivered" if times else ended
            story.silently_lost = story.silently_lost and story.fate == "lost"
            if story.fate == "lost":
                _mark_lost(story, next(iter(self.consumers), ""))
            # Two connections tell in any order.
            story.legs.sort(key=lambda leg: (leg.begin, leg.end, leg.outcome))
        consumers = [name for name in self.consumers if name not in self.producers]
        still = [
            (kind, who, begin, float(self.step + 1)) for kind, (who, begin) in self.faults.items()
        ]
        return Scene(
            list(self.producers),
            list(self.channels),
            consumers,
            list(self.stories.values()),
            list(
                _bands([*self.bands, *still], list(self.producers), list(self.channels), consumers)
            ),
            self.step,
            note,
            "added"
            if any(story.is_kept for story in self.stories.values())
            else self.acknowledgement,
        )


def _mark_lost(story: MessageHistory, consumer: str) -> None:
    """A message the server had and nobody handled ended on the way from the server."""
    arrived = [leg for leg in story.legs if leg.outcome == "arrived"]
    ended = any(
        leg.outcome == "lost" and (leg.target == consumer or leg.source == POOL)
        for leg in story.legs
    )
    if arrived and consumer and not ended:
        last = arrived[-1]
        story.legs.append(Leg(last.target, consumer, last.end, last.end + 0.2, "lost"))


def _nth(count: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(count, f"{count}th")


def _bands(
    faults: Iterable[tuple[str, str, float, float]],
    producers: list[str],
    channels: list[str],
    consumers: list[str],
) -> Iterable[Band]:
    for kind, who, begin, end in faults:
        struck = producers if kind in SENDER_FAULTS else [who] if who in consumers else consumers
        yield from (
            Band(node, begin, end, kind)
            for node in (channels if kind in SERVER_FAULTS else struck[:1])
        )

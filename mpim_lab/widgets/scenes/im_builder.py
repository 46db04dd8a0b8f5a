"""IM scene builder: a message's way over clients, gateways, channels and stores, from a trace.

Every hop is an event of its own (`EventKind.HOP`). Time is counted in steps, as in
`builder.py`: two for each time that a message comes from its sender to a gateway; one that is
sent again takes two more. Within them a message goes from left to right, whatever the clock said:
two connections hear of it in any order.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import ClassVar

from mpim_lab.events import CHAT_LOG, OFFLINE_STORE, SERVICE, Event, EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets.scenes.scene import Band, Leg, MessageHistory, Scene

# That a message takes from its sender's gateway to its readers: as long as its way is in a picture.
STEPS = 2
HOP_STEPS = 0.16 * STEPS
KEPT = (CHAT_LOG, OFFLINE_STORE)
ACKNOWLEDGEMENTS = ("success", "pushed", "stored", "known")
Hop = tuple[int, str, str]  # step, from, to
# Where a fault is drawn, if not at who reads.
_FAULT_NODES = {
    "gateway killed": "gw-2",
    "partition": "gw-2",
    "server restart": CHAT_LOG,
    "dies before the push": SERVICE,
    "dies after the push": SERVICE,
    "interleave": SERVICE,
    "half the group": SERVICE,
}


def has_hops(trace: Trace) -> bool:
    """Return whether a trace has hops."""
    return any(event.kind is EventKind.HOP for event in trace.events)


def build_im_scene(trace: Trace, *, finished: bool) -> Scene:
    """Build the scene of a trace of MPIM."""
    builder = _SceneBuilder(_columns(trace))
    for event in trace.events:
        builder.add(event)
    return builder.scene(finished, sampling_note(trace))


def sampling_note(trace: Trace) -> str:
    """Return what a reader must know about a trace that is not complete."""
    if not trace.dropped:
        return ""
    return (
        f"one message in {trace.sample_rate} is shown"
        if trace.sample_rate > 1
        else f"{trace.dropped:,} events are not shown"
    )


def _columns(trace: Trace) -> tuple[tuple[str, ...], ...]:
    """Senders, their gateways, the service, channels and stores, the readers' gateways, readers.

    In the order of names.
    """
    senders = {event.actor for event in trace.by_kind(EventKind.ACCEPTED)}
    hops = [(event.actor, event.channel) for event in trace.by_kind(EventKind.HOP)]
    wanted = {
        event.channel[5:]
        for event in trace.by_kind(EventKind.ACCEPTED)
        if event.channel.startswith("user:")
    }
    told = {target[5:] for _, target in hops if target.startswith("user:")}
    readers = {event.actor for event in trace.by_kind(EventKind.EFFECT)} | wanted | told
    readers -= senders
    names = {name for hop in hops for name in hop}
    near = {target for source, target in hops if source in senders}
    pushed = {
        target
        for source, target in hops
        if source in KEPT or (source.startswith("user:") and source[5:] in readers)
    }
    far = pushed - near - {SERVICE}
    channels = sorted(f"user:{reader}" for reader in readers if f"user:{reader}" in names)
    kept = [name for name in KEPT if name in names]
    columns = (
        sorted(senders),
        sorted(near),
        [SERVICE],
        [*channels, *kept],
        sorted(far),
        sorted(readers),
    )
    return tuple(tuple(each) for each in columns)


HANDLED_BY_ADD = frozenset({EventKind.FAULT_BEGAN, EventKind.FAULT_ENDED})
# A message's way is drawn from its hops; what the queue below reports of it is not.
IGNORED = frozenset(
    {
        EventKind.CHECKED, EventKind.BATCHED, EventKind.PUBLISHED, EventKind.RECEIVED,
        EventKind.HANDLED, EventKind.DROPPED, EventKind.FAILED, EventKind.ADDED, EventKind.CLAIMED,
        EventKind.RETRIED, EventKind.ACKED, EventKind.RELEASED, EventKind.DEAD_LETTERED,
        EventKind.CRASHED, EventKind.CONFIRMED, EventKind.CONNECTED, EventKind.DISCONNECTED,
        EventKind.RESUBSCRIBED, EventKind.SUBSCRIBED, EventKind.UNSUBSCRIBED,
    }
)  # fmt: skip


class _SceneBuilder:
    """Builder that takes events in order and makes the scene."""

    def __init__(self, columns: tuple[tuple[str, ...], ...]) -> None:
        self.columns, self.senders, self.readers = columns, columns[0], columns[-1]
        self.place = {name: column for column, names in enumerate(columns) for name in names}
        self.stories: dict[str, MessageHistory] = {}
        self.step = 0
        self._steps: dict[str, int] = {}  # message → the step in which it moves now
        self._hops: dict[str, dict[Hop, None]] = defaultdict(dict)
        self._wanted: dict[str, tuple[str, ...]] = {}  # message → who is to read it
        self._read: dict[str, Counter[str]] = defaultdict(Counter)
        self._outcomes: dict[str, str] = {}
        self._faults: dict[str, float] = {}
        self._bands: list[tuple[str, float, float]] = []

    def add(self, event: Event) -> None:
        """Add the next event."""
        if event.kind is EventKind.FAULT_BEGAN:
            self._faults[event.detail] = self.step + 0.05 + (STEPS - 1)
        elif event.kind is EventKind.FAULT_ENDED:
            self._bands.append(
                (event.detail, self._faults.pop(event.detail, 0.0), self.step + STEPS - 0.05)
            )
        elif event.message_id:
            story = self.stories.setdefault(event.message_id, MessageHistory(event.message_id))
            handle = self.HANDLERS.get(event.kind)
            if handle is not None:
                handle(self, story, event)

    def _accepted(self, story: MessageHistory, event: Event) -> None:
        kind, _, name = event.channel.partition(":")
        self._wanted[story.id] = (name,) if kind == "user" else self.readers
        story.log.append(f"{event.actor} sends it to {name}")

    def _hop(self, story: MessageHistory, event: Event) -> None:
        source, target = event.actor, event.channel
        if source not in self.place or target not in self.place or self._is_echo(source, target):
            return
        if source in self.senders:
            self.step += STEPS if self.step else 1
        if source in self.senders or source in KEPT:
            if source in KEPT and self._all_have(story):
                return  # pulled once more than needed
            self._steps[story.id] = self.step
        hop = (self._steps.get(story.id, self.step), source, target)
        if hop not in self._hops[story.id]:
            self._hops[story.id][hop] = None
            story.log.append(_in_words(event))

    def _is_echo(self, source: str, target: str) -> bool:
        """A sender's other devices hear of it, too; that is not drawn."""
        return target in self.senders or (source.startswith("user:") and source[5:] in self.senders)

    def _all_have(self, story: MessageHistory) -> bool:
        return all(self._read[story.id][uid] for uid in self._wanted.get(story.id, self.readers))

    def _effect(self, story: MessageHistory, event: Event) -> None:
        if event.actor not in self.senders:
            self._read[story.id][event.actor] += 1
            story.log.append(f"{event.actor} reads it")

    def _outcome(self, story: MessageHistory, event: Event) -> None:
        self._outcomes[story.id] = event.outcome
        story.log.append(f"{event.actor} gets the outcome: {event.outcome}")

    def _stalled(self, story: MessageHistory, event: Event) -> None:
        story.is_stalled = True
        story.log.append(event.detail)

    HANDLERS: ClassVar[
        dict[EventKind, Callable[["_SceneBuilder", MessageHistory, Event], None]]
    ] = {
        EventKind.ACCEPTED: _accepted,
        EventKind.HOP: _hop,
        EventKind.EFFECT: _effect,
        EventKind.OUTCOME: _outcome,
        EventKind.STALLED: _stalled,
    }

    def scene(self, finished: bool, note: str) -> Scene:
        """Return the scene of all events so far."""
        for story in self.stories.values():
            self._settle(story, finished)
        still = [(fault, begin, float(self.step + STEPS)) for fault, begin in self._faults.items()]
        bands = [
            Band(self._node_of(fault), begin, end, fault)
            for fault, begin, end in [*self._bands, *still]
        ]
        middle = [name for names in self.columns[1:-1] for name in names]
        return Scene(
            list(self.senders),
            middle,
            list(self.readers),
            list(self.stories.values()),
            bands,
            self.step + STEPS - 1,
            note,
            "success",
            self.columns,
        )

    def _node_of(self, fault: str) -> str:
        if fault == "sent twice":
            return self.senders[0] if self.senders else ""
        return _FAULT_NODES.get(fault, self.readers[0] if self.readers else "")

    def _settle(self, story: MessageHistory, finished: bool) -> None:
        if any(times > 1 for times in self._read[story.id].values()):
            story.fate = "duplicated"
        elif self._all_have(story):
            story.fate = "delivered"
        elif finished and not story.is_stalled:
            story.fate = "lost"
        story.silently_lost = (
            story.fate == "lost" and self._outcomes.get(story.id) in ACKNOWLEDGEMENTS
        )
        hops = sorted(
            self._hops[story.id],
            key=lambda hop: (hop[0], self.place[hop[1]], self.place[hop[2]], hop[1:]),
        )
        ended = self._where_it_ended(story, hops) if story.fate == "lost" else set()
        since: dict[str, float] = {}  # when it came to where it is kept
        for step, source, target in hops:
            leaves = step + HOP_STEPS * self.place[source]
            since.setdefault(target, leaves + HOP_STEPS)
            begin = since.get(source, leaves) if source in KEPT else leaves
            outcome = "lost" if (step, source, target) in ended else "arrived"
            story.legs.append(Leg(source, target, begin, leaves + HOP_STEPS, outcome))

    def _where_it_ended(self, story: MessageHistory, hops: list[Hop]) -> set[Hop]:
        """For each reader who never had it, the last hop on the way to her."""
        ended = set()
        for uid in self._wanted.get(story.id, self.readers):
            if not self._read[story.id][uid]:
                last = [hop for hop in hops if hop[2] == f"user:{uid}"] or [
                    hop for hop in hops if hop[2] not in KEPT
                ]
                ended.update(last[-1:])
        return ended


def _in_words(event: Event) -> str:
    if event.count == 0:
        return f"{event.actor} pushed it to {event.channel}: nobody listened"
    words = {CHAT_LOG: "is kept in the chat log", OFFLINE_STORE: "waits in the offline store"}
    return (
        f"it {words[event.channel]}"
        if event.channel in words
        else f"{event.actor} → {event.channel}"
    )

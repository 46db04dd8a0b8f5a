"""Story: from a Trace to what a picture shows. All decisions are made here; whatever draws only draws.

A picture's time is counted in *steps*: every attempt to send takes one, in the order of the attempts. Clock times differ
from run to run, and the order in which two connections hear of one message does, too; steps do not, so a picture of a
seeded run is the same every time. Within its step a message leaves at 0, is at the server at 0.35 and arrives at 0.7.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from mpim_lab import errors
from mpim_lab.events import Event, Kind
from mpim_lab.keys import is_confirmation
from mpim_lab.lab.trace import Trace

AT_SERVER, ARRIVES, CONFIRMED_AT = 0.35, 0.7, 0.95
FATES = {
    "delivered": "handled once",
    "duplicated": "handled more than once",
    "lost": "never handled",
    "pending": "on its way",
    "dead": "given up: dead letter",
}
SERVER_FAULTS = ("kill", "pause")


@dataclass(frozen=True)
class Leg:
    """A way from one node to another between two steps. `outcome`: "arrived", "lost" (it ended there) or "confirmation"."""

    source: str
    target: str
    begin: float
    end: float
    outcome: str = "arrived"


@dataclass
class Story:
    """One message's life: where it went, what became of it, and in words."""

    id: str
    fate: str = "pending"
    misreported: bool = False
    legs: list[Leg] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Band:
    """A time during which something was wrong at a node."""

    node: str
    begin: float
    end: float
    label: str


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows. Nodes from left to right: who sends, the channels, who receives."""

    producers: list[str]
    channels: list[str]
    consumers: list[str]
    stories: list[Story]
    bands: list[Band]
    steps: int
    note: str = ""

    def counts(self) -> Counter[str]:
        """How many messages had which fate."""
        return Counter(story.fate for story in self.stories)

    def __str__(self) -> str:
        counts = self.counts()
        parts = [f"{counts[fate]} {fate}" for fate in FATES if counts[fate]]
        lost = [story.id for story in self.stories if story.fate == "lost"]
        named = f" ({', '.join(lost[:12])}{', …' if len(lost) > 12 else ''})" if lost else ""
        text = f"{len(self.stories)} messages: {', '.join(parts) or 'none yet'}{named}"
        return f"{text}; {self.note}" if self.note else text


def tell(trace: Trace, *, finished: bool = True) -> Scene:
    """Make the scene of a trace. While a run goes on (`finished=False`) what has not arrived is on its way, not lost."""
    teller = _Teller()
    for event in sorted(trace.events, key=lambda event: event.at):  # load processes report batch by batch
        teller.take(event)
    return teller.scene(finished, _note(trace))


def _note(trace: Trace) -> str:
    """What a reader must know about a trace that is not complete."""
    if not trace.left_out:
        return ""
    return f"one message in {trace.one_in} is shown" if trace.one_in > 1 else f"{trace.left_out:,} events are not shown"


class _Teller:
    """Takes events in order and builds the scene."""

    def __init__(self) -> None:
        self.stories: dict[str, Story] = {}
        self.step = 0  # of the attempt that is going on; the first is 1
        self._began: dict[str, list[int]] = {}  # message → steps of its attempts that may still arrive
        self.producers: dict[str, None] = {}
        self.channels: dict[str, None] = {}
        self.consumers: dict[str, None] = {}
        self.faults: dict[str, float] = {}
        self.bands: list[tuple[str, float, float]] = []
        self.handled: Counter[str] = Counter()

    def take(self, event: Event) -> None:
        """Take the next event."""
        if event.kind is Kind.FAULT_BEGAN:
            self.faults[event.detail] = self.step + 0.9
        elif event.kind is Kind.FAULT_ENDED:
            self.bands.append((event.detail, self.faults.pop(event.detail, 0.0), self.step + 0.9))
        elif event.kind is Kind.SUBSCRIBED and not is_confirmation(event.channel):
            self.channels[event.channel] = self.consumers[event.actor] = None
        elif event.message_id and not is_confirmation(event.channel):
            story = self.stories.setdefault(event.message_id, Story(event.message_id))
            getattr(self, f"_{event.kind.name.lower()}", self._other)(story, event)

    def _other(self, story: Story, event: Event) -> None:
        story.log.append(f"{event.actor}: {event.kind}")

    def _checked(self, story: Story, event: Event) -> None:
        listeners = "nobody listens" if not event.count else f"{event.count} listen"
        story.log.append(f"{event.actor} asked the server who is there: {listeners}")
        self.producers[event.actor] = None

    def _accepted(self, story: Story, event: Event) -> None:
        self.step += 1
        self.producers[event.actor] = self.channels[event.channel] = None
        story.log.append(f"{event.actor} published it" if not story.legs else f"{event.actor} published it again")
        story.legs.append(Leg(event.actor, event.channel, self.step, self.step + AT_SERVER))
        self._began.setdefault(story.id, []).append(self.step)

    def _published(self, story: Story, event: Event) -> None:
        count = event.count or 0
        story.log.append(f"the server handed it to {count} subscriber{'' if count == 1 else 's'}")
        if not count and self._began.get(story.id):
            self._end_attempt(story)

    def _end_attempt(self, story: Story) -> None:
        """The attempt ended at the server: mark its leg, and expect nothing of it."""
        step = self._began[story.id].pop()
        for index, leg in enumerate(story.legs):
            if leg.begin == step and leg.outcome == "arrived":
                story.legs[index] = Leg(leg.source, leg.target, leg.begin, leg.end, "lost")

    def _failed(self, story: Story, event: Event) -> None:
        name = event.detail.partition(":")[0]
        story.log.append(f"{event.actor} failed: {name}")
        if getattr(getattr(errors, name, None), "definite", False) and self._began.get(story.id):
            self._end_attempt(story)

    def _received(self, story: Story, event: Event) -> None:
        self.consumers[event.actor] = None
        story.log.append(f"it arrived at {event.actor}")

    def _handled(self, story: Story, event: Event) -> None:
        self.handled[story.id] += 1
        story.log.append(f"{event.actor} handled it")
        attempts = self._began.get(story.id) or [self.step]
        began = attempts.pop(0) if len(attempts) > 1 else attempts[0]
        story.legs.append(Leg(event.channel, event.actor, began + AT_SERVER, self.step + ARRIVES))

    def _dropped(self, story: Story, event: Event) -> None:
        story.log.append(f"{event.actor} dropped it: {event.detail}")

    def _confirmed(self, story: Story, event: Event) -> None:
        story.log.append(f"the confirmation came back to {event.actor}")
        if self.consumers:
            receiver = next(iter(self.consumers))
            story.legs.append(Leg(receiver, event.actor, self.step + ARRIVES, self.step + CONFIRMED_AT, "confirmation"))

    def _told(self, story: Story, event: Event) -> None:
        story.log.append(f"{event.actor} was told: {event.detail}")
        if not story.legs:  # given up before publishing
            self.step += 1
            self.producers[event.actor] = None
            story.legs.append(Leg(event.actor, event.actor, self.step, self.step + 0.1, "lost"))
        story.misreported = event.detail == "delivered"

    def scene(self, finished: bool, note: str) -> Scene:
        """What all events taken so far amount to."""
        for story in self.stories.values():
            times = self.handled[story.id]
            story.fate = "duplicated" if times > 1 else "delivered" if times else "lost" if finished else "pending"
            story.misreported = story.misreported and story.fate == "lost"
            if not times and finished:
                _mark_lost(story, next(iter(self.consumers), ""))
            story.legs.sort(key=lambda leg: (leg.begin, leg.end, leg.outcome))  # two connections tell in any order
        consumers = [name for name in self.consumers if name not in self.producers]
        still = [(kind, begin, float(self.step + 1)) for kind, begin in self.faults.items()]
        return Scene(
            list(self.producers),
            list(self.channels),
            consumers,
            list(self.stories.values()),
            list(_bands([*self.bands, *still], list(self.channels), consumers)),
            self.step,
            note,
        )


def _mark_lost(story: Story, consumer: str) -> None:
    """A message the server had and nobody handled ended on the way from the server."""
    arrived = [leg for leg in story.legs if leg.outcome == "arrived"]
    if arrived and consumer:
        last = arrived[-1]
        story.legs.append(Leg(last.target, consumer, last.end, last.end + 0.2, "lost"))


def _bands(faults: Iterable[tuple[str, float, float]], channels: list[str], consumers: list[str]) -> Iterable[Band]:
    for kind, begin, end in faults:
        nodes = channels if kind in SERVER_FAULTS else consumers[:1]
        yield from (Band(node, begin, end, kind) for node in nodes)

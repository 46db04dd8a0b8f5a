"""Scene: all a picture shows, as plain data: who, each message's way and fate, each fault."""

from collections import Counter
from dataclasses import dataclass, field

FATES = {
    "delivered": "handled once",
    "duplicated": "handled more than once",
    "lost": "never handled",
    "pending": "on its way",
    "dead-lettered": "given up: in the dead-letter queue",
}


@dataclass(frozen=True)
class Leg:
    """A way from one node to another between two steps.

    `outcome`: "arrived", "lost" (it ended there), "dead-lettered" (given up there) or
    "confirmation".
    """

    source: str
    target: str
    begin: float
    end: float
    outcome: str = "arrived"


@dataclass
class MessageHistory:
    """History of one message: where it went, what became of it, and in words."""

    id: str
    fate: str = "pending"
    silently_lost: bool = False
    is_kept: bool = False  # in a stream, which gives it to workers, perhaps more than once
    is_stalled: bool = False
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
    """Everything a picture shows.

    Nodes from left to right: who sends, the channels, who receives.
    """

    producers: list[str]
    channels: list[str]
    consumers: list[str]
    stories: list[MessageHistory]
    bands: list[Band]
    steps: int
    note: str = ""
    acknowledgement: str = "delivered"  # what the sender of a silently lost message got
    # Where the nodes stand, from left to right, if not in those three.
    columns: tuple[tuple[str, ...], ...] = ()

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

"""DeliveryCounter: which messages of one phase arrived, how often, and how late."""

from typing import Any

from mpim_lab.events import now
from mpim_lab.latency_histogram import LatencyHistogram

MAX_MESSAGES = 10_000_000


def message_text(phase: str, due: float, number: int, size: int) -> str:
    """A message's text.

    To which phase it belongs, when it was due, and which it is, filled up to `size` characters.

    >>> message_text("steady", 12.5, 7, 24)
    'steady 12.500000 7 xxxxx'
    """
    return f"{phase} {due:.6f} {number} ".ljust(size, "x")


class DeliveryCounter:
    """Counts the messages of one phase.

    A latency runs from the moment a message was due to its handler.

    >>> counter = DeliveryCounter()
    >>> counter.begin("steady")
    >>> for text in ("steady 1.0 0 xx", "steady 1.0 0 xx", "warm-up 1.0 1 xx"):
    ...     counter.add(text, at=1.5)
    >>> counter.received, counter.duplicates
    (1, 1)
    """

    def __init__(self) -> None:
        self.begin("")

    def begin(self, phase: str) -> None:
        """Forget what was; messages of other phases do not count."""
        self._phase, self._seen = phase, bytearray()
        self.received, self.duplicates, self.last_at = 0, 0, 0.0
        self.latencies = LatencyHistogram()

    def add(self, text: str, at: float | None = None) -> None:
        """Count one message."""
        at = now() if at is None else at
        phase, due, number, _ = text.split(" ", 3)
        if phase != self._phase:
            return
        place, seen = int(number), self._seen
        if place >= len(seen):
            if place >= MAX_MESSAGES:
                return
            seen.extend(bytes(place + 1 - len(seen) + 4_096))
        if seen[place]:
            self.duplicates += 1
            return
        seen[place] = 1
        self.received += 1
        self.last_at = at
        self.latencies.add(at - float(due))

    def found(self) -> dict[str, Any]:
        """What was counted, as it can be put into a line and merged with another process's."""
        return {
            "received": self.received,
            "duplicates": self.duplicates,
            "last_at": self.last_at,
            "counts": self.latencies.counts,
            "max_s": self.latencies.max_s,
        }

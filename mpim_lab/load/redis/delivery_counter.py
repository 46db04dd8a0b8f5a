"""DeliveryCounter: what arrived, against what was sent."""

from bisect import bisect_left

from mpim_lab.latency_histogram import BUCKET_ENDS, LatencyHistogram
from mpim_lab.load.redis.plan import HEAD

STEP = 65_536


class DeliveryCounter:
    """Count payloads as they arrive; a rule without clock or I/O. Holds one byte a message.

    >>> counter = DeliveryCounter()
    >>> for sequence in (0, 1, 3, 2, 3):
    ...     _ = counter.add(HEAD.pack(sequence, 7.0), at=7.001)
    >>> counter.different, counter.duplicates, counter.reordered, counter.lost(sent=5)
    (4, 1, 1, 1)
    """

    def __init__(self) -> None:
        self.received = self.duplicates = self.reordered = 0
        self.first_at = self.last_at = 0.0
        self.recent, self._earlier = LatencyHistogram(), LatencyHistogram()
        self._seen = bytearray(STEP)
        self._highest = -1

    def add(self, payload: bytes, at: float) -> int:
        """Count one payload that arrived at `at` (monotonic seconds) and give its sequence number."""
        sequence: int
        sequence, due_at = HEAD.unpack_from(payload)
        while sequence >= len(self._seen):
            self._seen.extend(bytes(STEP))
        if self._seen[sequence]:
            self.duplicates += 1
        elif sequence < self._highest:
            self.reordered += 1
        else:
            self._highest = sequence
        self._seen[sequence] = 1
        # what LatencyHistogram.add does, without the call: this runs 200,000 times a second
        latency_s, recent = at - due_at, self.recent
        recent.counts[bisect_left(BUCKET_ENDS, latency_s)] += 1
        if latency_s > recent.max_s:
            recent.max_s = latency_s
        if not self.received:
            self.first_at = at
        self.received += 1
        self.last_at = at
        return sequence

    @property
    def different(self) -> int:
        """How many different messages arrived."""
        return self.received - self.duplicates

    def lost(self, sent: int) -> int:
        """How many of `sent` messages did not arrive."""
        return max(0, sent - self.different)

    def cut(self) -> LatencyHistogram:
        """Give the latencies since the last cut, and begin anew."""
        recent, self.recent = self.recent, LatencyHistogram()
        self._earlier.merge(recent)
        return recent

    @property
    def latencies(self) -> LatencyHistogram:
        """All latencies so far."""
        self.cut()
        return self._earlier

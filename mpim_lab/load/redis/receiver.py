"""The receiving side of a load: what arrived, against what was sent."""

import asyncio
from bisect import bisect_left
from typing import Any

from mpim_lab.events import EventKind, now
from mpim_lab.latency_histogram import BUCKET_ENDS, LatencyHistogram
from mpim_lab.load.redis.plan import HEAD, LoadPlan
from mpim_lab.load.redis.publisher import Life

# Nothing for so long after the last publish was answered: what is missing is lost.
QUIET_S = 1.0

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
        """Count a payload that arrived at `at` (monotonic seconds); return its sequence number."""
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


class Receiver:
    """Counter of every payload that is handed to `on_payload`."""

    def __init__(self, plan: LoadPlan, counter: DeliveryCounter | None = None) -> None:
        self.counter = counter or DeliveryCounter()
        self.lives: list[Life] = []
        self._sample_rate = plan.sample_rate
        self._add = self.counter.add
        self._reported, self._reported_at = 0, now()

    def on_payload(self, payload: bytes) -> None:
        """Handle one payload."""
        at = now()
        sequence = self._add(payload, at)
        if not sequence % self._sample_rate:
            self.lives += (
                (sequence, EventKind.RECEIVED, at, None),
                (sequence, EventKind.HANDLED, now(), None),
            )

    async def all_of(self, expected: int) -> None:
        """Wait until `expected` different messages are there, or nothing has come for a while."""
        received, quiet_since = self.counter.received, now()
        while self.counter.different < expected and now() - quiet_since < QUIET_S:
            await asyncio.sleep(0.01)
            if self.counter.received != received:
                received, quiet_since = self.counter.received, now()

    def interval(self) -> dict[str, Any]:
        """What came since the last interval."""
        at, latencies, lives = now(), self.counter.cut(), self.lives
        seconds, messages = at - self._reported_at, self.counter.received - self._reported
        self._reported, self._reported_at, self.lives = self.counter.received, at, []
        p50_ms, p99_ms = latencies.percentile_ms(0.50), latencies.percentile_ms(0.99)
        return {
            "at": at,
            "seconds": seconds,
            "messages": messages,
            "p50_ms": p50_ms,
            "p99_ms": p99_ms,
            "lives": lives,
        }

    def summary(self, sent: int) -> dict[str, Any]:
        """What came in all."""
        counter, latencies = self.counter, self.counter.latencies
        percentiles = {f"p{q}_ms": latencies.percentile_ms(q / 100) for q in (50, 90, 99)}
        return percentiles | {
            "max_ms": latencies.max_s * 1e3 if counter.received else None,
            "received": counter.different,
            "lost": counter.lost(sent),
            "duplicates": counter.duplicates,
            "reordered": counter.reordered,
            "receiving_s": counter.last_at - counter.first_at,
        }

"""The receiving side of a load: count what arrives."""

import asyncio
from typing import Any

from mpim_lab.events import EventKind, now
from mpim_lab.load.redis.delivery_counter import DeliveryCounter
from mpim_lab.load.redis.plan import LoadPlan
from mpim_lab.load.redis.publisher import Life

QUIET_S = 1.0  # nothing for so long after the last publish was answered: what is missing is lost


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

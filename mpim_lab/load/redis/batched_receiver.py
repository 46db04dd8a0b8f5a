"""Gathering: the receiving side for messages that come many at once.

It needs numpy; a plain `Receiver` does not.
"""

import asyncio

from mpim_lab.events import EventKind, now
from mpim_lab.load.redis.plan import NO_SAMPLE, LoadPlan, sequence_of
from mpim_lab.load.redis.receiver import Receiver
from mpim_lab.load.redis.vectorized_counter import VectorizedCounter


class BatchedReceiver(Receiver):
    """DeliveryCounter the payloads of a loop turn together, at its end.

    Their latencies run until then, so they are no shorter than they were.
    """

    counter: VectorizedCounter

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan, VectorizedCounter())
        self._gathered: list[bytes] = []

    def on_payload(self, payload: bytes) -> None:
        """Handle one payload of many that come at once."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._count)
        self._gathered.append(payload)

    def _count(self) -> None:
        gathered, self._gathered = self._gathered, []
        at, sample_rate = now(), self._sample_rate
        self.counter.add_many(gathered, at)
        if sample_rate != NO_SAMPLE:
            sequences = [sequence_of(payload) for payload in gathered]
            for sequence in sequences:
                if not sequence % sample_rate:
                    self.lives += (
                        (sequence, EventKind.RECEIVED, at, None),
                        (sequence, EventKind.HANDLED, at, None),
                    )

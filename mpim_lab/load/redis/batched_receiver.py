"""The receiving side for messages that come many at once.

A microsecond for each would be half of what is measured, so numpy counts them together. A plain
`Receiver` needs no numpy.
"""

import asyncio
from collections.abc import Sequence

import numpy as np

from mpim_lab.events import EventKind, now
from mpim_lab.latency_histogram import BUCKET_ENDS
from mpim_lab.load.redis.plan import HEAD, NO_SAMPLE, LoadPlan, sequence_of
from mpim_lab.load.redis.receiver import STEP, DeliveryCounter, Receiver

_ENDS = np.array(BUCKET_ENDS)


class VectorizedCounter(DeliveryCounter):
    """As a `DeliveryCounter`, for payloads of one length that arrive at one moment.

    Holds one byte a message.

    >>> counter = VectorizedCounter()
    >>> counter.add_many([HEAD.pack(sequence, 7.0) for sequence in (0, 1, 3, 2, 3)], at=7.001)
    >>> counter.different, counter.duplicates, counter.reordered, counter.lost(sent=5)
    (4, 1, 1, 1)
    """

    def add_many(self, payloads: Sequence[bytes], at: float) -> None:
        """Count payloads, at least one and all of one length, in the order in which they came."""
        padding = len(payloads[0]) - HEAD.size
        form = np.dtype([("sequence", "<u8"), ("due_at", "<f8"), ("padding", f"V{padding}")])
        heads = np.frombuffer(b"".join(payloads), dtype=form)
        self._note_sequences(heads["sequence"].astype(np.int64))
        latencies_s = at - heads["due_at"]
        counts = np.bincount(np.searchsorted(_ENDS, latencies_s), minlength=len(BUCKET_ENDS) + 1)
        for bucket in np.flatnonzero(counts):
            self.recent.counts[bucket] += int(counts[bucket])
        self.recent.max_s = max(self.recent.max_s, float(latencies_s.max()))
        if not self.received:
            self.first_at = at
        self.received += len(payloads)
        self.last_at = at

    def _note_sequences(self, sequences: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> None:
        """As `DeliveryCounter.add` does it: a repeat is a duplicate.

        Else, what is below the highest so far came too late.
        """
        shortage = int(sequences.max()) + 1 - len(self._seen)
        if shortage > 0:
            self._seen.extend(bytes(shortage + STEP))
        seen = np.frombuffer(self._seen, dtype=np.uint8)
        in_order = sequences[0] > self._highest and bool((np.diff(sequences) > 0).all())
        if not in_order or seen[sequences].any():
            del seen  # lets the bytes grow again
            return self._note_one_by_one(sequences.tolist())
        seen[sequences] = 1
        self._highest = int(sequences[-1])

    def _note_one_by_one(self, sequences: list[int]) -> None:
        for sequence in sequences:
            if self._seen[sequence]:
                self.duplicates += 1
            elif sequence < self._highest:
                self.reordered += 1
            else:
                self._highest = sequence
            self._seen[sequence] = 1


class BatchedReceiver(Receiver):
    """Counter of the payloads of an event-loop iteration together, at its end.

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

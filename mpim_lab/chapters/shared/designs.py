"""What the designs of chapters 3 and 4 are put together from: who sends how, and who works how."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.shared.worker_fleet import correct_worker
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.idempotency.producer import IdempotentProducer
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.group import ConsumerGroup

STREAM, GROUP, SCOPE = "orders", "billing", "payments"
PARTITIONS = 4
ATTEMPTS = 30  # of a sender, before it gives a message up
RETRY = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.004, max_s=0.02))


@dataclass(frozen=True)
class DesignContext:
    """What a design is built on.

    `url`: where alice connects to; leases are longer where a worker may be slow.
    """

    alice: MessageQueue
    url: str
    lease_ms: int


Work = Callable[[bytes, AtomicEffects], Awaitable[None]]
SenderFactory = Callable[[DesignContext], Any]
WorkerFactory = Callable[[DesignContext, MessageQueue, str, Work], Any]


@dataclass(frozen=True)
class Design:
    """A sender and a worker.

    `sender(context)` has `send(conversation, payload, id=…)`; a worker has `run` and `stop`.
    """

    sender: SenderFactory
    make_worker: WorkerFactory
    is_partitioned: bool = False


def partitioned(queue: MessageQueue) -> PartitionedStream:
    """Return the stream of the designs that have partitions."""
    return PartitionedStream(queue, STREAM, partitions=PARTITIONS)


# Who sends


def idempotent_sender(context: DesignContext) -> IdempotentProducer[str]:
    """Return a sender that repeats a message under one id until it is added."""
    stream = context.alice.stream(STREAM)

    async def add(conversation: str, payload: bytes, id: str) -> str:
        return await stream.add({"data": payload, "id": id})

    return IdempotentProducer(
        add, backoff=Backoff(initial_s=0.005, max_s=0.1), max_attempts=ATTEMPTS
    )


def partitioned_sender(attempts: int) -> SenderFactory:
    """Return a factory of senders that append to partitions, and try a message so often."""

    def make(context: DesignContext) -> IdempotentProducer[Any]:
        append = partitioned(context.alice).append
        return IdempotentProducer(
            append, backoff=Backoff(initial_s=0.005, max_s=0.1), max_attempts=attempts
        )

    return make


# Who works


def group_worker(
    dedup: Callable[[MessageQueue, str], Any], worker: Callable[..., Any] | None = None
) -> WorkerFactory:
    """Return a factory of group members that ask `dedup(queue, scope)` before they work."""

    def make_worker(context: DesignContext, queue: MessageQueue, name: str, work: Work) -> Any:
        deduplicator = (
            IdempotencyStore(queue, SCOPE, lease_ms=context.lease_ms)
            if dedup is IdempotencyStore
            else dedup(queue, SCOPE)
        )

        async def handle(entry: Entry) -> None:
            known_as = entry.fields.get("id", b"").decode() or entry.id
            await deduplicator.run(known_as, lambda effects: work(entry.data, effects))

        group = ConsumerGroup(queue.context(STREAM), GROUP)
        if worker is not None:
            return worker(group, name, handle)
        return correct_worker(group, name, handle, claim_idle_ms=context.lease_ms)

    return make_worker


def ordered_worker(
    kind: type[OrderedWorker], *, retry: RetryPolicy = RETRY, batch_size: int = 1
) -> WorkerFactory:
    """Return a factory of workers that own partitions, or believe it."""

    def make_worker(
        context: DesignContext, queue: MessageQueue, name: str, work: Work
    ) -> OrderedWorker:
        async def handle(entry: PartitionEntry, effects: AtomicEffects) -> None:
            await work(entry.data, effects)

        options: dict[str, Any] = {
            "retry": retry,
            "batch_size": batch_size,
            "lease_ms": context.lease_ms,
        }
        return kind(partitioned(queue), GROUP, name, handle, **options)

    return make_worker

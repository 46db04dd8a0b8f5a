"""What the designs of chapters 3 and 4 are put together from: who sends how, and who works how."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.shared.worker_fleet import sound_worker
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.idempotency.effects import Effects
from mpim_lab.mq.idempotency.producer import Producer
from mpim_lab.mq.idempotency.store import Idempotency
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import Ordered, PartitionedStream
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.group import ConsumerGroup

STREAM, GROUP, SCOPE = "orders", "billing", "payments"
PARTITIONS = 4
ATTEMPTS = 30  # of a sender, before it gives a message up
RETRY = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.004, max_s=0.02))


@dataclass(frozen=True)
class Setting:
    """What a design is built on. `url`: where alice's line goes; leases are longer where a worker may be slow."""

    alice: MessageQueue
    url: str
    lease_ms: int


Work = Callable[[bytes, Effects], Awaitable[None]]
Senders = Callable[[Setting], Any]
Employs = Callable[[Setting, MessageQueue, str, Work], Any]


@dataclass(frozen=True)
class Design:
    """`sender(setting)` has `send(conversation, payload, id=…)`; `employ(setting, queue, name, work)` gives a worker."""

    sender: Senders
    employ: Employs
    is_partitioned: bool = False


def partitioned(queue: MessageQueue) -> PartitionedStream:
    """The stream of the designs that have partitions."""
    return PartitionedStream(queue, STREAM, partitions=PARTITIONS)


# Who sends


def kept_id(setting: Setting) -> Producer[str]:
    """Repeat a message under one id until it is added."""
    stream = setting.alice.stream(STREAM)

    async def add(conversation: str, payload: bytes, id: str) -> str:
        return await stream.add({"data": payload, "id": id})

    return Producer(add, backoff=Backoff(initial_s=0.005, max_s=0.1), attempts=ATTEMPTS)


def numbered(attempts: int) -> Senders:
    """Senders into the partitions that repeat a message so often."""

    def make(setting: Setting) -> Producer[Any]:
        append = partitioned(setting.alice).append
        return Producer(append, backoff=Backoff(initial_s=0.005, max_s=0.1), attempts=attempts)

    return make


# Who works


def group_worker(once: Callable[[MessageQueue, str], Any], worker: Callable[..., Any] | None = None) -> Employs:
    """Workers of a consumer group that ask `once(queue, scope)` before they work."""

    def employ(setting: Setting, queue: MessageQueue, name: str, work: Work) -> Any:
        recognise = Idempotency(queue, SCOPE, lease_ms=setting.lease_ms) if once is Idempotency else once(queue, SCOPE)

        async def handle(entry: Entry) -> None:
            known_as = entry.fields.get("id", b"").decode() or entry.id
            await recognise.run(known_as, lambda effects: work(entry.data, effects))

        group = ConsumerGroup(queue.context(STREAM), GROUP)
        if worker is not None:
            return worker(group, name, handle)
        return sound_worker(group, name, handle, claim_idle_ms=setting.lease_ms)

    return employ


def ordered_worker(kind: type[OrderedWorker], *, retry: RetryPolicy = RETRY, prefetch: int = 1) -> Employs:
    """Workers that have partitions to themselves, or believe it."""

    def employ(setting: Setting, queue: MessageQueue, name: str, work: Work) -> OrderedWorker:
        async def handle(ordered: Ordered, effects: Effects) -> None:
            await work(ordered.data, effects)

        options: dict[str, Any] = {"retry": retry, "prefetch": prefetch, "lease_ms": setting.lease_ms}
        return kind(partitioned(queue), GROUP, name, handle, **options)

    return employ

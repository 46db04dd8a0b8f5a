"""Designs of the line from alice to the ledger: who sends how, and who works how."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.ch02_streams.naive import NoAckWorker
from mpim_lab.chapters.ch03_idempotency.naive import CheckThenSet, FreshIdSender, LibrarySender, MarkFirst, NoCheck
from mpim_lab.chapters.ch04_ordering.naive import RetryListSender, UnfencedWorker
from mpim_lab.chapters.shared.worker_fleet import sound_worker
from mpim_lab.mq.connection.retry import Backoff, RetryRule
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
LIBRARY_TIMEOUT_S = 0.4
ATTEMPTS = 30  # of a sender, before it gives a message up
RETRY = RetryRule(tries=3, backoff=Backoff(first_s=0.004, most_s=0.02))


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


class HopefulSender:
    """Send once; an error is passed on."""

    def __init__(self, setting: Setting) -> None:
        self._stream = setting.alice.stream(STREAM)

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> str:
        """Append one entry."""
        return await self._stream.add({"data": payload, "id": id or ""})


def _kept_id(setting: Setting) -> Producer[str]:
    stream = setting.alice.stream(STREAM)

    async def add(conversation: str, payload: bytes, id: str) -> str:
        return await stream.add({"data": payload, "id": id})

    return Producer(add, backoff=Backoff(first_s=0.005, most_s=0.1), attempts=ATTEMPTS)


def numbered(attempts: int) -> Senders:
    """Senders into the partitions that repeat a message so often."""

    def make(setting: Setting) -> Producer[Any]:
        append = partitioned(setting.alice).append
        return Producer(append, backoff=Backoff(first_s=0.005, most_s=0.1), attempts=attempts)

    return make


def _library(setting: Setting) -> LibrarySender:
    return LibrarySender(setting.url, setting.alice, STREAM, timeout_s=LIBRARY_TIMEOUT_S)


# Who works


def group_worker(once: Callable[[MessageQueue, str], Any], worker: Callable[..., Any] | None = None) -> Employs:
    """Workers of a consumer group that ask `once(queue, scope)` before they work."""

    def employ(setting: Setting, queue: MessageQueue, name: str, work: Work) -> Any:
        recognise = Idempotency(queue, SCOPE, lease_ms=setting.lease_ms) if once is Idempotency else once(queue, SCOPE)

        async def handle(entry: Entry) -> None:
            known_as = entry.fields.get("id", b"").decode() or entry.id
            await recognise.run(known_as, lambda effects: work(entry.data, effects))

        group = ConsumerGroup(queue.access(STREAM), GROUP)
        if worker is not None:
            return worker(group, name, handle)
        return sound_worker(group, name, handle, claim_idle_ms=setting.lease_ms)

    return employ


def ordered_worker(kind: type[OrderedWorker], *, retry: RetryRule = RETRY, prefetch: int = 1) -> Employs:
    """Workers that have partitions to themselves, or believe it."""

    def employ(setting: Setting, queue: MessageQueue, name: str, work: Work) -> OrderedWorker:
        async def handle(ordered: Ordered, effects: Effects) -> None:
            await work(ordered.data, effects)

        options: dict[str, Any] = {"retry": retry, "prefetch": prefetch, "lease_ms": setting.lease_ms}
        return kind(partitioned(queue), GROUP, name, handle, **options)

    return employ


_IN_ORDER = Design(numbered(ATTEMPTS), ordered_worker(OrderedWorker), is_partitioned=True)
IDEMPOTENCY_DESIGNS = {
    "fresh id": Design(lambda setting: FreshIdSender(setting.alice.stream(STREAM)), group_worker(Idempotency)),
    "library retries": Design(_library, group_worker(Idempotency)),
    "check then set": Design(_kept_id, group_worker(CheckThenSet)),
    "mark first": Design(_kept_id, group_worker(MarkFirst)),
    "sound": Design(_kept_id, group_worker(Idempotency)),
}
ORDERING_DESIGNS = {
    "any worker": Design(_kept_id, group_worker(Idempotency)),
    "no fence": Design(numbered(ATTEMPTS), ordered_worker(UnfencedWorker), is_partitioned=True),
    "sound": _IN_ORDER,
}
MODES = {
    "at most once": Design(HopefulSender, group_worker(NoCheck, NoAckWorker)),
    "at least once": Design(lambda setting: RetryListSender(setting.alice.stream(STREAM)), group_worker(NoCheck)),
    "exactly once in effect": _IN_ORDER,
}

"""The naive versions of chapter 4: order that holds as long as nobody else is there.

Senders and readers have the interfaces of
`mpim_lab.mq.ordering.sequenced_log.SequencedLog` and
`mpim_lab.mq.ordering.ordered_reader.OrderedReader`.

Flaws kept on purpose, one a class:

- `TwoStepConversations` takes a number and then publishes: another gateway fits between the two,
  and a gateway that dies there leaves a number that nobody will ever send;
- `AsItComesReader` shows messages as they come;
- `PatientReader` puts them in order and waits for whatever is missing, without limit and for ever;
- `RetryListSender` puts what failed on a list and tries it again after the next success: the list
  is out of order;
- `UnfencedWorker` has a partition to itself by a lock that ends after a while, and nobody checks it
  when it writes: a worker that slept writes, too.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind, shown_name
from mpim_lab.keys import live_channel
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import await_result
from mpim_lab.mq.connection.retry import RetryPolicy
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.ordering.ordered_worker import OrderedHandler
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry, parse_entry
from mpim_lab.mq.ordering.sequenced_log import AppendResult, SequencedMessage
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.stream import Stream

POLL_S = 0.003


class TwoStepConversations:
    """Take a number, then publish."""

    def __init__(self, queue: MessageQueue, name: str) -> None:
        self.queue, self.name = queue, name

    async def append(
        self, conversation: str, payload: bytes, id: str | None = None
    ) -> AppendResult:
        """Send; the caller's `id` is not looked at."""
        reporter = self.queue.reporter
        reporter.message(EventKind.ACCEPTED, payload, self.name)
        counter = self.queue.keys.sequence(self.name, conversation)
        number = int(await self.queue.context(self.name).connection.call("INCR", counter))
        await self.queue.publish(
            live_channel(self.name, conversation), b"%d %b" % (number, payload)
        )
        reporter.message(EventKind.ADDED, payload, self.name, sequence=number)
        return AppendResult(number, is_new=True)


class AsItComesReader:
    """Hand over each message as it arrives."""

    def __init__(
        self, conversations: Any, conversation: str, handler: Callable[[SequencedMessage], None]
    ) -> None:
        self.queue, self._name = conversations.queue, conversations.name
        self._conversation, self._handler = conversation, handler
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Listen until `stop`."""
        channel = live_channel(self._name, self._conversation)
        await self.queue.subscribe(channel, self._on_message)
        await self._stopping.wait()
        await self.queue.unsubscribe(channel)

    async def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()

    async def _on_message(self, message: Message) -> None:
        number, _, payload = message.payload.partition(b" ")
        self._take(SequencedMessage(self._conversation, int(number), payload))

    def _take(self, numbered: SequencedMessage) -> None:
        self.queue.reporter.message(EventKind.RECEIVED, numbered.payload, self._name)
        self._hand_over(numbered)

    def _hand_over(self, numbered: SequencedMessage) -> None:
        self._handler(numbered)
        self.queue.reporter.message(EventKind.HANDLED, numbered.payload, self._name)


class PatientReader(AsItComesReader):
    """Hand over in order; what comes early waits until the rest is there."""

    def __init__(
        self, conversations: Any, conversation: str, handler: Callable[[SequencedMessage], None]
    ) -> None:
        super().__init__(conversations, conversation, handler)
        self._next, self._early = 1, dict[int, SequencedMessage]()

    def _take(self, numbered: SequencedMessage) -> None:
        self.queue.reporter.message(EventKind.RECEIVED, numbered.payload, self._name)
        self._early[numbered.sequence] = numbered
        while self._next in self._early:
            self._hand_over(self._early.pop(self._next))
            self._next += 1


class RetryListSender:
    """Send; what failed is sent again after the next success."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._failed = stream, list[tuple[bytes, str | None]]()

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> str:
        """Send one message, and then those that failed before."""
        try:
            added = await self._stream.add({"data": payload, "id": id or ""})
        except MpimError:
            self._failed.append((payload, id))
            raise
        while self._failed:
            again, its_id = self._failed.pop(0)
            await self._stream.add({"data": again, "id": its_id or ""})
        return added


class UnfencedWorker:
    """The effects, then the offset, each a step of its own; the lock is believed.

    A partition is a worker's while its name is the lock's value; the lock ends by itself after
    `lease_ms`. The first worker locks all partitions, and the others wait for it.
    """

    def __init__(
        self,
        stream: PartitionedStream,
        group: str,
        name: str,
        handler: OrderedHandler,
        *,
        retry: RetryPolicy,
        batch_size: int,
        lease_ms: int,
    ) -> None:
        self._stream, self._group, self._name, self._handler = stream, group, name, handler
        self._retry, self._batch_size, self._lease_ms = retry, str(batch_size), str(lease_ms)
        self._call = stream.queue.context(stream.name).connection.call
        self._assignments = stream.assignment_keys(group)[1:]
        self._offsets: dict[int, bytes] = {}  # of the partitions that are mine, as far as I know
        self._stopping, self._ended = False, asyncio.Event()

    async def run(self) -> None:
        """Work until `stop`."""
        try:
            while not self._stopping:
                try:
                    for partition in range(self._stream.partitions):
                        if await self._has_lock(partition):
                            await self._work_on(partition)
                except MpimError as error:
                    if not error.transient:
                        raise
                    self._offsets.clear()  # read again what is not known to be done
                await asyncio.sleep(POLL_S)
            for partition in self._offsets:
                if await self._has_lock(partition):
                    await self._call("DEL", self._lock(partition))
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Stop after the entry that is being processed."""
        self._stopping = True
        await self._ended.wait()

    def _lock(self, partition: int) -> bytes:
        return self._stream.queue.keys.idempotency_record("locks", f"{self._group} {partition}")

    async def _has_lock(self, partition: int) -> bool:
        lock = self._lock(partition)
        is_new = await self._call("SET", lock, self._name, "NX", "PX", self._lease_ms)
        if not is_new and await self._call("GET", lock) != self._name.encode():
            return False
        await self._call("PEXPIRE", lock, self._lease_ms)
        if is_new or partition not in self._offsets:
            offset = await self._call("HGET", self._assignments[partition], "offset")
            self._offsets[partition] = offset or b"0"
        return True

    async def _work_on(self, partition: int) -> None:
        key, offset = self._stream.keys[partition], self._offsets[partition]
        found = await self._call("XREAD", "COUNT", self._batch_size, "STREAMS", key, offset)
        for raw in (found or {}).get(key, ()):
            entry = parse_entry(raw)
            for command in (await self._handle(partition, entry)).commands:
                await self._call(*command)
            await self._call("HSET", self._assignments[partition], "offset", entry.entry_id)
            self._offsets[partition] = entry.entry_id.encode()
            self._report(EventKind.HANDLED, entry)
            self._report(EventKind.ACKED, entry)
            if self._stopping:
                break

    async def _handle(self, partition: int, entry: PartitionEntry) -> AtomicEffects:
        """Return the effects: the handler's, or a dead letter when its tries are used up."""
        for attempt in itertools.count(1):
            effects = AtomicEffects(self._stream.queue.keys)
            self._report(EventKind.RECEIVED, entry, count=attempt)
            try:
                await await_result(self._handler(entry, effects))
                return effects
            except Exception as error:
                self._report(EventKind.FAILED, entry, error=error)
                delay_s = self._retry.delay_s(attempt, jitter=1.0)
                if delay_s is None:
                    return self._dead_letter(partition, entry, attempt, error)
            await asyncio.sleep(delay_s)
        raise AssertionError("unreachable")

    def _dead_letter(
        self, partition: int, entry: PartitionEntry, attempts: int, error: Exception
    ) -> AtomicEffects:
        letters, effects = self._stream.dead_letters(self._group, partition), AtomicEffects()
        raw, text = Entry(entry.entry_id.encode(), entry.parts), f"{type(error).__name__}: {error}"
        fields = letters.encode_fields(raw, reason="tries used up", error=text, deliveries=attempts)
        effects.commands.append((b"XADD", letters.key, b"*", *fields))
        self._report(EventKind.DEAD_LETTERED, entry, detail=f"tries used up: {text}")
        return effects

    def _report(self, kind: EventKind, entry: PartitionEntry, **details: Any) -> None:
        reporter, name = self._stream.queue.reporter, shown_name(self._stream.name)
        reporter.message(kind, entry.data, name, actor=self._name, **details)

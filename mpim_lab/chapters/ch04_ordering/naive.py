"""The naive versions of chapter 4: order that holds as long as nobody else is there.

Senders and readers have the interfaces of
`mpim_lab.mq.ordering.sequenced_log.SequencedLog` and
`mpim_lab.mq.ordering.ordered_reader.OrderedReader`.

Flaws kept on purpose, one a class:

- `TwoStepConversations` takes a number and then publishes: another gateway fits between the two,
and a gateway that dies there
  leaves a number that nobody will ever send;
- `AsItComesReader` shows messages as they come;
- `PatientReader` puts them in order and waits for whatever is missing, without limit and for ever;
- `RetryListSender` puts what failed on a list and tries it again after the next success: the list
  is out of order;
- `UnfencedWorker` has a partition to itself by a lease, and nobody checks it when it writes: a
worker that slept writes, too.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind
from mpim_lab.keys import live_channel
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.ordering.assignments import CompletedEntry, PartitionAssignments, PartitionLease
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.sequenced_log import AppendResult, SequencedMessage
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.stream import Stream


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


class _UnfencedSeats(PartitionAssignments):
    async def commit(self, lease: PartitionLease, done: list[CompletedEntry]) -> tuple[int, str]:
        for entry, effects in done:
            for command in effects.commands:
                await self._commands.call(*command)
            await self._commands.call(
                "HSET", self._keys[1 + lease.partition], "offset", entry.entry_id
            )
            lease.offset, lease.failures, lease.retry_at = entry.entry_id, 0, 0.0
            lease.in_flight.remove(entry)
        return len(done), ""


class UnfencedWorker(OrderedWorker):
    """The effects, then the offset, each a step of its own; the lease is believed."""

    assignments_type = _UnfencedSeats

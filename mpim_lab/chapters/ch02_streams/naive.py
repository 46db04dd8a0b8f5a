"""The naive versions of chapter 2: read, handle, forget.

Each has the interface of `mpim_lab.mq.streams.worker.Worker`.

Flaws kept on purpose, one a class:

- `NoAckWorker` reads with NOACK: an entry is acknowledged by being read, so a crash loses what was
  being processed;
- `AckFirstWorker` acknowledges and then works: a crash between the two loses the entry;
- `NoClaimWorker` never claims: what a dead member was processing stays in the pending list for
  ever, and so does what failed;
- `EndlessRetryWorker` tries what failed again at once and for ever: a poison message holds up
everything after it.
"""

import asyncio
import inspect
from typing import Any

from mpim_lab.events import EventKind
from mpim_lab.mq.streams.consumer import BLOCK_MS
from mpim_lab.mq.streams.entries import Delivery, parse_deliveries
from mpim_lab.mq.streams.group import ConsumerGroup
from mpim_lab.mq.streams.worker import EntryHandler


class NaiveWorker:
    """What the naive versions share: a connection, a loop that reads new entries, `stop`."""

    read_options: tuple[str, ...] = ()

    def __init__(self, group: ConsumerGroup, name: str, handler: EntryHandler) -> None:
        self._group, self._name, self._handler = group, name, handler
        self._link = group.context.new_connection(name)
        self._stopping, self._ended = False, asyncio.Event()

    async def run(self) -> None:
        """Work until `stop`."""
        await self._link.open()
        try:
            while not self._stopping:
                for delivery in await self._read():
                    self._group.report(EventKind.RECEIVED, delivery, actor=self._name, count=1)
                    await self._take(delivery)
        finally:
            await self._link.close()
            self._ended.set()

    async def stop(self) -> None:
        """Stop after the entry that is being processed."""
        self._stopping = True
        await self._ended.wait()

    async def _read(self) -> list[Delivery]:
        words = (
            "GROUP",
            self._group.name,
            self._name,
            *self.read_options,
            "COUNT",
            "1",
            "BLOCK",
            str(BLOCK_MS),
        )
        reply = await self._link.call("XREADGROUP", *words, "STREAMS", self._group.context.key, ">")
        return parse_deliveries(reply)

    async def _work(self, delivery: Delivery) -> bool:
        try:
            result: Any = self._handler(delivery.entry)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            self._group.report(EventKind.FAILED, delivery, actor=self._name, error=error)
            return False
        return True

    async def _take(self, delivery: Delivery) -> None:
        raise NotImplementedError


class NoAckWorker(NaiveWorker):
    """Read with NOACK, handle."""

    read_options = ("NOACK",)

    async def _take(self, delivery: Delivery) -> None:
        await self._work(delivery)


class AckFirstWorker(NaiveWorker):
    """Read, acknowledge, handle."""

    async def _take(self, delivery: Delivery) -> None:
        await self._group.ack_coalesced(delivery, actor=self._name)
        await self._work(delivery)


class NoClaimWorker(NaiveWorker):
    """Read, handle, acknowledge; what somebody else had is not my business."""

    async def _take(self, delivery: Delivery) -> None:
        if await self._work(delivery):
            await self._group.ack_coalesced(delivery, actor=self._name)


class EndlessRetryWorker(NaiveWorker):
    """Read, handle until it works, acknowledge."""

    async def _take(self, delivery: Delivery) -> None:
        while not self._stopping:
            if await self._work(delivery):
                await self._group.ack_coalesced(delivery, actor=self._name)
                return
            await asyncio.sleep(0)

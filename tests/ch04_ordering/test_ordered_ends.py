"""How the run of an OrderedWorker and of a OrderedReader ends on a real server."""

import asyncio
import time

import pytest

from mpim_lab.errors import (
    CommandRejected,
    HandlerCancelled,
    InvalidParameter,
    LeaseLost,
    QueueClosed,
)
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.ordering.ordered_reader import OrderedReader
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
from mpim_lab.mq.ordering.sequenced_log import SequencedLog
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.streams import FAST
from tests.support import wait_until

SOON = ConnectionConfig(close_timeout_s=0.5)


def worker_on(mq, handler, name="w", **options):
    """An ordered worker of the group "g" on one partition."""
    stream = PartitionedStream(mq, "s", partitions=1)
    return stream, OrderedWorker(stream, "g", name, handler, retry=FAST, **options)


async def endless(*_):
    await asyncio.Event().wait()


async def test_an_ordered_handler_that_meets_a_foreign_cancellation_has_failed(server):
    """Tried again, a dead letter at last; what comes after it is handled."""
    got = []

    async def handle(entry, effects):
        if entry.data == b"bad":
            inner = asyncio.ensure_future(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(inner.cancel)
            await inner
        got.append(entry.data)

    async with MessageQueue(server.url) as mq:
        stream, worker = worker_on(mq, handle)
        for payload in ("bad", "b"):
            await stream.append("bob", payload)
        task = asyncio.create_task(worker.run())
        await wait_until(lambda: got == [b"b"])
        assert await stream.dead_letters("g", 0).count() == 1
        await worker.stop()
        await task


async def test_a_generator_is_no_ordered_handler_and_no_readers_handler(server):
    """Calling it would run nothing of it."""

    def generator(*_):
        yield

    async with MessageQueue(server.url) as mq:
        with pytest.raises(InvalidParameter):
            worker_on(mq, generator)
        with pytest.raises(InvalidParameter):
            OrderedReader(SequencedLog(mq, "chat"), "bob", generator)


async def test_an_ordered_worker_stops_from_inside_its_handler_in_time_and_runs_again(server):
    """And a second run at the same time is refused."""
    got = []

    async def handle(entry, effects):
        with pytest.raises(InvalidParameter, match="runs already"):
            await worker.run()
        await worker.stop()
        got.append(entry.data)

    async with MessageQueue(server.url, config=SOON) as mq:
        stream, worker = worker_on(mq, handle)
        for payload in "ab":
            await stream.append("bob", payload)
            async with asyncio.timeout(5):
                await worker.run()
        assert (got, await stream.lag("g")) == ([b"a", b"b"], 0)
        _, stalled = worker_on(mq, endless)
        await stream.append("bob", "c")
        task = asyncio.create_task(stalled.run())
        await wait_until(lambda: any(lease.in_flight for lease in stalled.assignments.assigned))
        begun = time.monotonic()
        await stalled.stop()
        await task
        assert time.monotonic() - begun < 2


async def test_of_two_ordered_workers_of_one_name_the_later_goes_on_and_the_earlier_is_told(server):
    """They do not take the partitions from each other for ever."""
    got = []

    def handle(entry, effects):
        got.append(entry.data)

    async with MessageQueue(server.url) as mq:
        stream, earlier = worker_on(mq, handle)
        first = asyncio.create_task(earlier.run())
        await wait_until(lambda: earlier.assignments.assigned)
        _, later = worker_on(mq, handle)
        second = asyncio.create_task(later.run())
        async with asyncio.timeout(10):
            with pytest.raises(LeaseLost):
                await first
        await stream.append("bob", "a")
        await wait_until(lambda: got == [b"a"])
        await later.stop()
        await second


async def test_an_error_that_will_not_pass_ends_an_ordered_run(server):
    """Somebody's string is where a partition was."""
    async with MessageQueue(server.url) as mq:
        stream, worker = worker_on(mq, print)
        await mq.context("x").connection.call("SET", stream.keys[0], "in the way")
        async with asyncio.timeout(10):
            with pytest.raises(CommandRejected, match="WRONGTYPE"):
                await worker.run()


@pytest.mark.parametrize(
    "how", ["cancelled elsewhere", "stop inside", "overdue", "queue closed", "returns 7"]
)
async def test_a_reader_ends_whatever_its_handler_and_its_queue_do(server, how):
    """By name, in time, and with nothing left."""

    async def handle(numbered):
        if how == "cancelled elsewhere":
            raise asyncio.CancelledError
        if how == "stop inside":
            await reader.stop()
        if how == "overdue":
            await endless()

    async with MessageQueue(server.url, config=SOON) as mq:
        conversations = SequencedLog(mq, "chat")
        handler = (lambda numbered: 7) if how == "returns 7" else handle
        reader = OrderedReader(
            conversations, "bob", handler, gap_timeout_s=0.01, poll_interval_s=0.02
        )
        await conversations.append("bob", "a")
        task = asyncio.create_task(reader.run())
        async with asyncio.timeout(10):
            if how == "overdue":
                await wait_until(lambda: reader._is_handling)
                await reader.stop()
            if how == "queue closed":
                await wait_until(lambda: reader.position == 1)
                await mq.close()
            error = {
                "cancelled elsewhere": HandlerCancelled,
                "queue closed": QueueClosed,
                "returns 7": TypeError,
            }.get(how)
            if error is None:
                await task
            else:
                with pytest.raises(error):
                    await task

"""How a Worker's run ends on a real server: stopped, cancelled, refused.

Whatever its handlers and its server do.
"""

import asyncio
import time

import pytest

from mpim_lab.errors import CommandRejected, InvalidParameter, MpimError, QueueClosed
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.worker import Worker
from tests.streams import (
    AN_HOUR_MS,
    FAST,
    data,
    everything_done,
    fetched,
    letters,
    pending,
    shop,
    working,
)
from tests.support import wait_until

SOON = ConnectionConfig(close_timeout_s=0.5)


async def cancelled_elsewhere():
    """Await something that somebody else cancels."""
    inner = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(inner.cancel)
    await inner


def tasks_besides(before):
    """The tasks that were not there before, without the one that asks."""
    return asyncio.all_tasks() - before - {asyncio.current_task()}


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_handler_that_meets_a_foreign_cancellation_has_failed_like_any_other(
    server, concurrency
):
    """Counted, retried, a dead letter at last; the worker goes on."""
    got = []

    async def handle(entry):
        if entry.data == b"b":
            await cancelled_elsewhere()
        got.append(entry.data)

    async with shop(server, *"abcd") as (group, _), working(group, handle, concurrency=concurrency):
        (letter,) = await letters(group)
        await everything_done(group)
    assert (letter.deliveries, letter.error[:14], sorted(got)) == (
        3,
        "CancelledError",
        [b"a", b"c", b"d"],
    )


async def test_a_plain_handler_that_raises_a_cancellation_has_failed_too(server):
    """Nobody has cancelled the worker."""

    def handle(entry):
        raise asyncio.CancelledError

    async with shop(server, "a") as (group, _), working(group, handle):
        assert (await letters(group))[0].deliveries == 3


async def test_a_generator_is_no_handler(server):
    """Calling it would run nothing of it.

    Refused by name, or failed where it comes to light late.
    """

    def generator(entry):
        yield

    async def async_generator(entry):
        yield

    async with shop(server, "a") as (group, _):
        for handler in (generator, async_generator, "no handler"):
            with pytest.raises(InvalidParameter):
                Worker(group, "w", handler)
        for result in (lambda entry: generator(entry), lambda entry: 7):
            async with working(group, result):
                assert "TypeError" in (await letters(group))[0].error
            await group.dead_letters.delete((await letters(group))[0].id)
            await group.context.connection.call("XADD", "orders", "*", "data", "a")


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_cancelled_run_gives_everything_back_and_may_run_again(server, concurrency):
    """Nothing of it outlives it, wherever it was cancelled."""
    begun, got, is_endless = asyncio.Event(), [], True

    async def handle(entry):
        begun.set()
        if is_endless:
            await asyncio.Event().wait()
        got.append(entry.data)

    async with shop(server, *"abc") as (group, _):
        before = asyncio.all_tasks()
        worker = Worker(group, "w", handle, concurrency=concurrency, claim_idle_ms=None)
        task = asyncio.create_task(worker.run())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: not tasks_besides(before))
        assert [line.idle_ms > AN_HOUR_MS for line in await group.pending()] == [True] * 3
        is_endless = False
        task = asyncio.create_task(worker.run())
        await everything_done(group)
        await worker.stop()
        await task
    assert sorted(got) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_cancellation_that_a_handler_keeps_for_itself_still_ends_the_run(
    server, concurrency
):
    """It was sent to the run. What the handler did is acknowledged."""
    begun = asyncio.Event()

    async def keeps_it(entry):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with shop(server, "a") as (group, _):
        task = asyncio.create_task(Worker(group, "w", keeps_it, concurrency=concurrency).run())
        await begun.wait()
        task.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await group.pending() == []


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("through_a_task", [False, True])
async def test_a_stop_inside_a_handler_does_not_wait_for_itself(
    server, concurrency, through_a_task
):
    """The handler goes on, its entry is acknowledged, and the run ends after it."""
    got = []

    async def handle(entry):
        stopping = worker.stop()
        await (asyncio.create_task(stopping) if through_a_task else stopping)
        got.append(entry.data)

    async with shop(server, "a") as (group, _):
        worker = Worker(group, "w", handle, concurrency=concurrency)
        async with asyncio.timeout(5):
            await worker.run()
        assert (got, await group.pending()) == ([b"a"], [])


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_stop_ends_in_time_and_gives_back_what_a_handler_does_not_finish(
    server, concurrency
):
    """It is cancelled; whoever awaits the run gets no error."""

    async def endless(entry):
        await asyncio.Event().wait()

    async with shop(server, *"ab", config=SOON) as (group, _):
        worker = Worker(group, "w", endless, concurrency=concurrency)
        task = asyncio.create_task(worker.run())
        await pending(group, 2)
        begun = time.monotonic()
        await worker.stop()
        assert time.monotonic() - begun < 2
        await task
        async with Consumer(group, "heir", claim_idle_ms=AN_HOUR_MS) as heir:
            assert data(await fetched(heir, 2)) == ["a", "b"]


async def test_a_stop_ends_in_time_though_a_handler_will_not_be_cancelled(server):
    """It cannot be made to end; the stop does not wait for it."""
    go = asyncio.Event()

    async def stubborn(entry):
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    async with shop(server, "a", config=SOON) as (group, _):
        worker = Worker(group, "w", stubborn)
        task = asyncio.create_task(worker.run())
        await pending(group, 1)
        async with asyncio.timeout(3):
            await worker.stop()
        assert not task.done()
        go.set()
        async with asyncio.timeout(5):
            await asyncio.wait([task])


async def test_a_stop_ends_in_time_though_the_server_has_stopped(server):
    """SIGSTOP: nothing is answered, and everything ends."""
    async with shop(server, config=SOON) as (group, _):
        worker = Worker(group, "w", print)
        task = asyncio.create_task(worker.run())
        await wait_until(lambda: worker.consumer._requested is not None)
        server.pause()
        try:
            async with asyncio.timeout(4):
                await worker.stop()
                await asyncio.wait([task])
        finally:
            server.resume()


async def test_a_second_run_at_the_same_time_is_refused(server):
    """And does the first no harm; stopped twice, it may run again."""
    got = []
    async with (
        shop(server) as (group, stream),
        working(group, lambda entry: got.append(entry.data)) as worker,
    ):
        await wait_until(lambda: worker.consumer._membership)
        with pytest.raises(InvalidParameter, match="runs already"):
            await worker.run()
        await stream.add("a")
        await everything_done(group)
        await worker.stop()
        await worker.stop()
        task = asyncio.create_task(worker.run())
        await stream.add("b")
        await everything_done(group)
        await worker.stop()
        await task
    assert got == [b"a", b"b"]


async def test_an_error_that_will_not_pass_ends_the_run(server):
    """Somebody's string is where the stream was; the queue was closed."""
    async with shop(server) as (group, stream):
        worker = Worker(group, "w", print)
        task = asyncio.create_task(worker.run())
        await wait_until(lambda: worker.consumer._requested is not None)
        await group.context.connection.call("SET", stream.key, "no stream")
        async with asyncio.timeout(10):
            with pytest.raises(CommandRejected, match="WRONGTYPE"):
                await task
        await group.context.connection.call("DEL", stream.key)
        task = asyncio.create_task(Worker(group, "w", print).run())
        await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        with pytest.raises(MpimError) as raised:
            await task
    assert isinstance(raised.value, QueueClosed)


async def test_an_entry_that_cannot_be_buried_is_kept_and_the_others_go_on(server):
    """Until that is put right."""
    got = []

    def handle(entry):
        if entry.data == b"bad":
            raise ValueError
        got.append(entry.data)

    async with shop(server, "bad", "b") as (group, stream), working(group, handle, retry=FAST):
        await group.context.connection.call("SET", group.dead_letters.key, "in the way")
        await stream.add("c")
        await wait_until(lambda: got == [b"b", b"c"])
        await asyncio.sleep(0.1)
        assert len(await group.pending()) == 1
        await group.context.connection.call("DEL", group.dead_letters.key)
        await letters(group)


async def test_a_fetch_may_wait_longer_than_a_command_and_be_cancelled_at_once(server):
    """Its time is its own.

    What was on its way when it was cancelled comes with the next one, counted once.
    """
    limits = ConnectionConfig(timeout_s=0.4)
    async with (
        MessageQueue(server.url, config=limits) as mq,
        Consumer(await mq.stream("s").group("g"), "c", claim_idle_ms=None) as consumer,
    ):
        begun = time.monotonic()
        assert await consumer.fetch(900) == [] and time.monotonic() - begun >= 0.9
        for number in range(30):
            fetching = asyncio.create_task(consumer.fetch(10_000))
            await asyncio.sleep(0.001 * (number % 5))
            await mq.stream("s").add(str(number))
            await asyncio.sleep(0.0005 * (number % 3))
            fetching.cancel()
            await asyncio.wait([fetching])
            (found,) = (not fetching.cancelled() and fetching.result()) or await fetched(
                consumer, 1
            )
            assert (found.data, found.deliveries) == (b"%d" % number, 1)
            await consumer.ack(found)


async def test_a_wait_for_entries_that_is_cancelled_ends_at_once(server):
    """Though the server would hold it back for a minute."""
    async with shop(server) as (_, stream):
        waiting = asyncio.create_task(stream.wait(timeout_ms=60_000))
        await asyncio.sleep(0.1)
        waiting.cancel()
        async with asyncio.timeout(2):
            with pytest.raises(asyncio.CancelledError):
                await waiting


REFUSALS = {
    "READONLY": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "NOREPLICAS": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    "OOM": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_worker_that_begins_or_works_while_the_server_refuses_for_now_waits_for_its_turn(
    server, refusal
):
    """A failover, a replica that is missing, a full memory: none of them ends a run."""
    begin, end = REFUSALS[refusal]
    got = []
    async with shop(server, *"ab") as (group, _), MessageQueue(server.url) as admin:
        call = admin.connection.call
        await call(*begin)
        async with working(group, lambda entry: got.append(entry.data)):
            await asyncio.sleep(0.1)
            await call(*end)
            await wait_until(lambda: len(got) >= 2)
            await call(*begin)
            await asyncio.sleep(0.1)
            await call(*end)
            await group.context.connection.call("XADD", group.context.key, "*", "data", "c")
            await wait_until(lambda: b"c" in got)
            await everything_done(group)
    assert sorted(set(got)) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_an_ordered_worker_waits_for_its_turn_too(server, refusal):
    """As the worker of a group does."""
    begin, end = REFUSALS[refusal]
    got = []
    async with MessageQueue(server.url) as mq, MessageQueue(server.url) as admin:
        stream = PartitionedStream(mq, "orders", partitions=2)
        await stream.append("alice", b"a")
        await admin.connection.call(*begin)
        worker = OrderedWorker(
            stream, "billing", "worker-1", lambda ordered, effects: got.append(ordered.data)
        )
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(0.1)
        await admin.connection.call(*end)
        await wait_until(lambda: got == [b"a"])
        await worker.stop()
        await running

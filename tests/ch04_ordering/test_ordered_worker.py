"""Partition assignments and their workers on a real server.

In order, effects once, whoever joins, leaves, dies or sleeps.
"""

import asyncio
import contextlib
import itertools
import random
from collections import Counter

import pytest

from mpim_lab.errors import InvalidMessage, InvalidParameter, LeaseLost
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.idempotency.producer import IdempotentProducer
from mpim_lab.mq.ordering.assignments import CompletedEntry, PartitionAssignments
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
from mpim_lab.mq.ordering.sequenced_log import AppendResult
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

QUICK = Backoff(initial_s=0.005, max_s=0.02)
FAST, PATIENT = (
    RetryPolicy(max_attempts=3, backoff=QUICK),
    RetryPolicy(max_attempts=1_000, backoff=QUICK),
)
LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=1.0, backoff=QUICK)
SHORT_MS, LONG_MS = 80, 60_000


class Power(BaseException):
    """A power cut: no handler of exceptions sees it."""


@contextlib.asynccontextmanager
async def orders(server, *payloads, url=None, partitions=4, **options):
    """The stream "orders"; bob's conversation holds `payloads`."""
    async with MessageQueue(url or server.url, **{"config": LIMITS} | options) as mq:
        stream = PartitionedStream(mq, "orders", partitions=partitions)
        for payload in payloads:
            await stream.append("bob", payload)
        yield stream


def hired(stream, handler, name="w", **options):
    """A worker of the group "billing"."""
    return OrderedWorker(
        stream, "billing", name, handler, **{"retry": FAST, "lease_ms": LONG_MS} | options
    )


@contextlib.asynccontextmanager
async def working(stream, handler, name="w", **options):
    """A worker that runs until the end of the block."""
    worker = hired(stream, handler, name, **options)
    task = asyncio.create_task(worker.run())
    yield worker
    async with asyncio.timeout(10):
        await worker.stop()
        await task


def enter(entry, effects):
    """The effect of a message: a line in its conversation's ledger."""
    effects.add("RPUSH", f"ledger:{entry.conversation}", entry.data)


async def ask(stream, command, key="", *words):
    """What the server says of a key of this queue's."""
    named = (
        (stream.queue.prefix.encode() + (key if isinstance(key, bytes) else key.encode()),)
        if key
        else ()
    )
    return await stream.queue.context("ask").connection.call(command, *named, *words)


async def ledger(stream, conversation="bob"):
    """Its lines, as text."""
    return [
        line.decode() for line in await ask(stream, "LRANGE", f"ledger:{conversation}", "0", "-1")
    ]


async def all_done(stream, within_s=20):
    """Wait until the group is behind in nothing."""
    async with asyncio.timeout(within_s):
        while await stream.lag("billing"):
            await asyncio.sleep(0.005)


async def letters(stream, conversation="bob", count=1):
    """Wait for so many dead letters of a conversation's partition."""
    dead = stream.dead_letters("billing", stream.partition_of(conversation))
    async with asyncio.timeout(10):
        while len(found := await dead.list()) < count:
            await asyncio.sleep(0.005)
    return found


async def no_letters(stream):
    """Whether nothing was given up."""
    return not any(
        [await stream.dead_letters("billing", n).count() for n in range(stream.partitions)]
    )


async def assignment(stream, partition=0):
    """What the server keeps of a partition's assignment."""
    pairs = await ask(stream, "HGETALL", f"part:{{orders:{partition}}}:owner:billing")
    return {name.decode(): value.decode() for name, value in pairs.items()}


async def dies(stream, name, *, lease_ms=20, reads=False, waits=True):
    """A member that takes its share, perhaps reads, and is gone without a word.

    `waits` until its lease is over.
    """
    with pytest.raises(Power):
        async with PartitionAssignments(
            stream, "billing", name, lease_ms=lease_ms, batch_size=10
        ) as assignments:
            await assignments.heartbeat()
            if reads:
                await assignments.read(10)
            raise Power
    if waits:
        await asyncio.sleep(lease_ms * 1.2e-3)


# Appending


async def test_a_conversation_is_in_one_partition_in_the_order_of_its_numbers(server):
    """With its name, number, message id and payload.

    An id that comes again is not appended again.
    """
    async with orders(server) as stream:
        names = [f"c{number}" for number in range(20)]
        for count in range(1, 4):
            for name in names:
                assert await stream.append(name, f"{count}", id=f"{name}-{count}") == AppendResult(
                    count, True
                )
                assert await stream.append(name, "again", id=f"{name}-{count}") == AppendResult(
                    count, False
                )
        found = {}
        for number, key in enumerate(stream.keys):
            for _, fields in await ask(stream, "XRANGE", key, "-", "+"):
                name = fields[1].decode()
                found.setdefault((name, number), []).append(fields)
        assert sorted(found) == sorted((name, stream.partition_of(name)) for name in names)
        assert found["c7", stream.partition_of("c7")] == [
            [b"conversation", b"c7", b"seq", b"%d" % n, b"id", b"c7-%d" % n, b"data", b"%d" % n]
            for n in (1, 2, 3)
        ]
        assert len({number for _, number in found}) == 4


async def test_the_partition_of_a_conversation_never_changes(server):
    """These numbers are in people's data."""
    async with orders(server, partitions=8) as stream:
        assert [stream.partition_of(name) for name in ("alice", "bob", "晚")] == [7, 0, 1]


async def test_options_out_of_their_bounds_are_refused(server):
    """By name."""
    async with MessageQueue(server.url) as mq:
        for partitions in (0, 1_025):
            with pytest.raises(InvalidParameter, match=f"partitions={partitions}"):
                PartitionedStream(mq, "orders", partitions=partitions)
        with pytest.raises(InvalidParameter, match="id_ttl_s=0"):
            PartitionedStream(mq, "orders", id_ttl_s=0)
        stream = PartitionedStream(mq, "orders")
        with pytest.raises(InvalidMessage, match="a conversation is a non-empty text"):
            await stream.append("", "x")
        for options in ({"batch_size": 0}, {"lease_ms": 2}):
            with pytest.raises(InvalidParameter, match="a whole number from"):
                hired(stream, enter, **options)


async def test_lag_counts_what_the_group_has_not_done(server):
    """Thousands, over several pages and partitions; each group has its own."""
    async with orders(server) as stream:
        assert await stream.lag("billing") == 0
        await asyncio.gather(*(stream.append(f"c{number % 10}", b"x") for number in range(5_000)))
        assert await stream.lag("billing") == 5_000
        async with working(stream, enter, batch_size=1_000):
            await all_done(stream)
        await stream.append("bob", b"x")
        assert (await stream.lag("billing"), await stream.lag("mails")) == (1, 5_001)


# Working


@pytest.mark.parametrize("is_async", [False, True])
async def test_each_conversation_is_worked_on_in_order_and_each_effect_happens_once(
    server, is_async
):
    """One worker, many partitions, more messages than it reads at once; new ones while it works."""

    async def later(entry, effects):
        await asyncio.sleep(0)
        enter(entry, effects)

    async with orders(server) as stream:
        async with working(stream, later if is_async else enter, batch_size=7):
            for number in range(60):
                await asyncio.gather(*(stream.append(f"c{name}", f"{number}") for name in range(6)))
            await all_done(stream)
        for name in range(6):
            assert await ledger(stream, f"c{name}") == list(map(str, range(60)))
        assert await no_letters(stream)


async def test_what_happens_is_reported(server):
    """Received, handled, acknowledged, by the worker's name."""
    trace = Trace()
    async with orders(server, "m1 tea", observer=trace) as stream, working(stream, enter):
        await all_done(stream)
        await wait_until(lambda: list(trace.by_kind(EventKind.ACKED)))
    for kind in (EventKind.RECEIVED, EventKind.HANDLED, EventKind.ACKED):
        assert [(event.message_id, event.actor) for event in trace.by_kind(kind)] == [("m1", "w")]


async def shared(server, partitions, shares):
    """Three workers come to have so many partitions.

    Then each conversation's message is done once.
    """
    async with orders(server, partitions=partitions, prefix=f"{partitions}:") as stream:
        workers = [hired(stream, enter, name) for name in "abc"]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        await wait_until(lambda: [len(worker.assignments.assigned) for worker in workers] == shares)
        taken = [lease.partition for worker in workers for lease in worker.assignments.assigned]
        assert sorted(taken) == list(range(partitions))
        await asyncio.gather(*(stream.append(f"c{number}", "x") for number in range(50)))
        await all_done(stream)
        assert [await ledger(stream, f"c{number}") for number in range(50)] == [["x"]] * 50
        await asyncio.gather(*(worker.stop() for worker in workers), *tasks)


async def test_partitions_are_shared_fairly_and_none_is_anybody_elses(server):
    """More than workers, and fewer; whoever has none has nothing to do, and waits."""
    cases = ((8, [3, 3, 2]), (2, [1, 1, 0]), (64, [22, 21, 21]), (1, [1, 0, 0]))
    await asyncio.gather(*(shared(server, *case) for case in cases))


async def test_what_a_worker_leaves_is_taken_over_soon(server):
    """Long before its lease would have ended."""
    async with orders(server) as stream, asyncio.timeout(10), working(stream, enter, "b") as second:
        async with working(stream, enter, "a") as first:
            await wait_until(
                lambda: len(first.assignments.assigned) == len(second.assignments.assigned) == 2
            )
        await wait_until(lambda: len(second.assignments.assigned) == 4)
        await stream.append("bob", "x")
        await all_done(stream)


async def test_what_a_dead_worker_had_is_taken_over_after_its_lease(server):
    """And done once: nothing of what it was doing had happened."""

    def deadly(entry, effects):
        enter(entry, effects)
        raise Power

    lease_ms = 300
    async with orders(server, "a", "b", partitions=1) as stream:
        begun = asyncio.get_running_loop().time()
        with pytest.raises(Power):
            await hired(stream, deadly, "dead", lease_ms=lease_ms).run()
        async with working(stream, enter, "alive", lease_ms=lease_ms):
            await all_done(stream)
        assert asyncio.get_running_loop().time() - begun >= lease_ms / 1e3 - 0.01
        assert await ledger(stream) == ["a", "b"]
        assert (await assignment(stream))["token"] == "2"


async def test_what_a_worker_had_in_an_earlier_life_goes_to_whoever_has_room(server):
    """It begins anew under its name while another has joined.

    Its share is smaller now, and the rest is free.
    """
    async with orders(server, partitions=2) as stream:
        await dies(stream, "b", lease_ms=LONG_MS, waits=False)
        async with working(stream, enter, "a") as first:
            async with asyncio.timeout(10):
                while await ask(stream, "ZCARD", "part:{orders}:members:billing") < 2:
                    await asyncio.sleep(0.005)
            async with working(stream, enter, "b") as second:
                await wait_until(
                    lambda: len(first.assignments.assigned) == len(second.assignments.assigned) == 1
                )
                await asyncio.gather(*(stream.append(f"c{number}", "x") for number in range(20)))
                await all_done(stream)
        assert [await ledger(stream, f"c{number}") for number in range(20)] == [["x"]] * 20


async def alive_part(stream, member, looks):
    """In which part of so many looks the server counts a member as alive."""
    alive = 0
    for _ in range(looks):
        await asyncio.sleep(0.015)
        seconds, micros = await ask(stream, "TIME")
        until = await ask(stream, "ZSCORE", "part:{orders}:members:billing", member) or 0
        alive += float(until) > int(seconds) * 1e3 + int(micros) / 1e3
    return alive / looks


async def test_an_idle_worker_with_a_short_lease_stays_alive(server):
    """It does not wait for messages longer than until its next sign of life."""
    async with orders(server) as stream, working(stream, enter, lease_ms=100):
        assert await alive_part(stream, "w", 40) > 0.75


async def test_a_worker_with_many_slow_partitions_stays_alive(server):
    """The lease is longer than one call of the handler, and that is enough."""

    async def slow(entry, effects):
        await asyncio.sleep(0.08)
        enter(entry, effects)

    async with orders(server, partitions=8) as stream:
        names = {stream.partition_of(f"c{number}"): f"c{number}" for number in range(100)}
        for name in names.values():
            await stream.append(name, "x")
        async with working(stream, slow, lease_ms=300) as worker:
            await wait_until(lambda: len(worker.assignments.assigned) == 8)
            assert await alive_part(stream, "w", 40) > 0.9
            await all_done(stream)
        assert [await ledger(stream, name) for name in names.values()] == [["x"]] * 8


# Failing


async def test_a_handler_that_raises_is_retried_after_a_delay_and_then_buried(server):
    """The letter says where it came from, why, and what was in it.

    The next ones go on, and its effects never happen.
    """
    trace, tried = Trace(), []

    def refuse(entry, effects):
        enter(entry, effects)
        if entry.data == b"bad":
            tried.append(asyncio.get_running_loop().time())
            raise ValueError("no price for tea")

    retry = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.05, max_s=0.05))
    async with orders(server, "a", observer=trace) as stream:
        await stream.append("bob", "bad", id="m17")
        await stream.append("bob", "c")
        async with working(stream, refuse, retry=retry):
            (letter,) = await letters(stream)
            await all_done(stream)
        assert await ledger(stream) == ["a", "c"]
        assert (
            letter.stream == f"part:{{orders:{stream.partition_of('bob')}}}:log"
            and letter.group == "billing"
        )
    assert (letter.reason, letter.error, letter.deliveries) == (
        "tries used up",
        "ValueError: no price for tea",
        3,
    )
    assert letter.fields == {"conversation": b"bob", "seq": b"2", "id": b"m17", "data": b"bad"}
    assert len(tried) == 3 and all(
        second - first >= 0.025 for first, second in itertools.pairwise(tried)
    )
    assert [event.detail for event in trace.by_kind(EventKind.FAILED)] == [
        "ValueError: no price for tea"
    ] * 3
    assert [event.message_id for event in trace.by_kind(EventKind.DEAD_LETTERED)] == ["bad"]


async def test_while_one_waits_for_its_retry_other_partitions_go_on(server):
    """Its own partition waits: order has its price."""
    got = []

    def shaky(entry, effects):
        got.append(entry.data)
        if entry.data == b"bob 1" and got.count(b"bob 1") == 1:
            raise OSError("later")

    slow = RetryPolicy(max_attempts=2, backoff=Backoff(initial_s=0.3, max_s=0.3))
    async with orders(server) as stream:
        other = next(
            f"c{n}" for n in range(99) if stream.partition_of(f"c{n}") != stream.partition_of("bob")
        )
        await stream.append("bob", "bob 1")
        await stream.append("bob", "bob 2")
        async with working(stream, shaky, retry=slow):
            await wait_until(lambda: got)
            await stream.append(other, "other")
            await all_done(stream)
    assert got == [b"bob 1", b"other", b"bob 1", b"bob 2"]


async def test_a_refused_effect_is_retried_and_then_buried(server):
    """The server says why; those before and behind it in the same commit are done once."""
    calls = []

    def handle(entry, effects):
        calls.append(entry.data)
        if entry.data == b"bad":
            effects.add("INCR", "ledger:bob")
        enter(entry, effects)

    async with orders(server, "a", "bad", "c", "d", partitions=1) as stream:
        async with working(stream, handle):
            (letter,) = await letters(stream)
            await all_done(stream)
        assert await ledger(stream) == ["a", "c", "d"]
    assert letter.reason == "tries used up" and "WRONGTYPE" in letter.error
    assert letter.deliveries == calls.count(b"bad") == 3


async def test_an_effect_that_is_refused_once_happens_once(server):
    """What stood in its way is gone at the second try."""
    async with orders(server, "a", "b", "c", partitions=1) as stream:
        await ask(stream, "SET", "ledger:bob", "in the way")
        async with working(stream, enter, retry=PATIENT):
            await asyncio.sleep(0.05)
            assert await stream.lag("billing") == 3
            await ask(stream, "DEL", "ledger:bob")
            await all_done(stream)
        assert await ledger(stream) == ["a", "b", "c"]


async def test_a_handler_whose_own_task_was_cancelled_has_failed_like_any_other(server):
    """Nobody cancelled the worker: it goes on, and counts the tries."""

    async def handle(entry, effects):
        if entry.data == b"bad":
            inner = asyncio.create_task(asyncio.sleep(60))
            inner.cancel()
            await inner
        enter(entry, effects)

    async with orders(server, "a", "bad", "c") as stream:
        async with working(stream, handle):
            (letter,) = await letters(stream)
            await all_done(stream)
        assert await ledger(stream) == ["a", "c"]
    assert letter.error.startswith("CancelledError")


async def test_an_error_that_cannot_be_written_as_text_is_written_all_the_same(server):
    """A file's name that is not UTF-8, a text without end."""

    def handle(entry, effects):
        raise ValueError("\udcff" + "x" * 10_000)

    async with orders(server, "a") as stream, working(stream, handle):
        (letter,) = await letters(stream)
    assert letter.error.startswith("ValueError: \\udcffxxx") and len(letter.error) < 600


async def test_an_entry_that_cannot_be_buried_is_not_passed_over(server):
    """Somebody's key is where the dead letters go.

    It is neither done nor lost until that is put right.
    """

    def refuse(entry, effects):
        raise ValueError

    trace = Trace()
    async with orders(server, "a", partitions=1, observer=trace) as stream:
        dead = stream.dead_letters("billing", 0)
        await ask(stream, "SET", dead.key, "in the way")
        async with working(stream, refuse, retry=RetryPolicy(max_attempts=1, backoff=QUICK)):
            await asyncio.sleep(0.1)
            assert (
                await stream.lag("billing") == 1
                and list(trace.by_kind(EventKind.DEAD_LETTERED)) == []
            )
            await ask(stream, "DEL", dead.key)
            (letter,) = await letters(stream)
            await all_done(stream)
    assert letter.fields["data"] == b"a"


@pytest.mark.parametrize(
    "fields", [1, 4, 4_200], ids=["one field", "as many as ours", "4,200 fields"]
)
async def test_what_another_program_puts_into_a_partition_becomes_a_dead_letter(server, fields):
    """The handler does not see it.

    It is kept and replayed byte for byte, names that are not UTF-8 and all.
    """
    seen = []
    foreign = [part for number in range(fields) for part in (b"\xff_%d" % number, b"\x00")] + [
        b"id",
        b"1",
        b"id",
        b"",
    ]
    async with orders(server, "a", partitions=1) as stream:
        await ask(stream, "XADD", stream.keys[0], "*", *foreign)
        await stream.append("bob", "b")
        async with working(stream, lambda entry, effects: seen.append(entry.data)):
            (letter,) = await letters(stream)
            await all_done(stream)
        assert [part for pair in letter.pairs for part in pair] == foreign
        assert (seen, letter.error.partition(":")[0]) == ([b"a", b"b"], "CorruptPayload")
        new = await stream.dead_letters("billing", 0).redrive(letter.id)
        assert await ask(stream, "XRANGE", stream.keys[0], new, new) == [[new.encode(), foreign]]


async def test_a_dead_letter_is_replayed_at_the_end_of_its_partition(server):
    """With its number, id and payload; and it is done then."""
    broken = True

    def handle(entry, effects):
        if entry.data == b"bad" and broken:
            raise ValueError
        effects.add("RPUSH", "ledger:bob", f"{entry.sequence} {entry.id} {entry.data.decode()}")

    async with orders(server) as stream:
        for payload in ("bad", "b"):
            await stream.append("bob", payload, id=f"id-{payload}")
        async with working(stream, handle):
            (letter,) = await letters(stream)
            await all_done(stream)
            broken = False
            dead = stream.dead_letters("billing", stream.partition_of("bob"))
            assert await dead.redrive(letter.id) and not await dead.redrive(letter.id)
            await all_done(stream)
        assert await ledger(stream) == ["2 id-b b", "1 id-bad bad"]
        assert await no_letters(stream)


# Dying


async def dying(stream, handler, names, **options):
    """Hire one after the other, each when the one before is taken for dead, until one survives.

    Gives how many died.
    """
    for deaths, name in enumerate(names):
        worker = hired(stream, handler, name, **{"lease_ms": SHORT_MS} | options)
        task = asyncio.create_task(worker.run())
        while not task.done() and await stream.lag("billing"):
            await asyncio.sleep(0.005)
        if not task.done():
            await worker.stop()
            await task
            return deaths
        assert isinstance(task.exception(), Power)
    raise AssertionError("nobody survived")


@pytest.mark.parametrize("names", ["another name", "the same name"])
async def test_an_entry_that_kills_whoever_has_it_is_buried_and_its_neighbours_are_not(
    server, names
):
    """Nobody sees it raise: the server counts its dead.

    Those read together with it are done once, in order.

    The first death cannot be told from one over the entries before it in the same batch, so it may
    kill once more.
    """
    killed = []

    def deadly(entry, effects):
        enter(entry, effects)
        if entry.data == b"poison":
            killed.append(1)
            raise Power

    async with orders(server, "a", "b", "poison", "d", "e", partitions=1) as stream:
        async with asyncio.timeout(20):
            deaths = await dying(
                stream, deadly, [f"w{n}" if names == "another name" else "w" for n in range(9)]
            )
        (letter,) = await letters(stream)
        assert await ledger(stream) == ["a", "b", "d", "e"]
        assert await stream.dead_letters("billing", 0).count() == 1
    assert (letter.reason, letter.fields["data"]) == ("delivered too often", b"poison")
    assert 3 <= len(killed) == deaths <= 4


async def test_dying_with_nothing_to_do_counts_against_no_entry(server):
    """However often: the next message is handled."""
    async with orders(server, partitions=1) as stream:
        for number in range(6):
            await dies(stream, f"dead{number}", reads=True)
        await asyncio.sleep(0.02)
        await stream.append("bob", "innocent")
        async with working(stream, enter, retry=RetryPolicy(max_attempts=1, backoff=QUICK)):
            await all_done(stream)
        assert await ledger(stream) == ["innocent"] and await no_letters(stream)


async def test_a_clean_leave_counts_against_no_entry(server):
    """Cancelled, again and again, with an entry in hand: somebody's deployments."""
    begun = asyncio.Event()

    async def endless(entry, effects):
        begun.set()
        await asyncio.Event().wait()

    async with orders(server, "a", partitions=1) as stream:
        for number in range(6):
            begun.clear()
            task = asyncio.create_task(hired(stream, endless, f"w{number}").run())
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        async with working(stream, enter):
            await all_done(stream)
        assert await ledger(stream) == ["a"] and await no_letters(stream)


async def test_a_worker_that_begins_anew_under_its_name_goes_on_at_once(server):
    """It need not wait for its own lease.

    What its earlier life still tries to commit is refused.
    """
    async with orders(server, "a", "b", partitions=1) as stream, asyncio.timeout(10):
        async with PartitionAssignments(
            stream, "billing", "w", lease_ms=LONG_MS, batch_size=10
        ) as earlier:
            await earlier.heartbeat()
            await earlier.read(100)
            (old,) = earlier.assigned
            assert [entry.data for entry in old.in_flight] == [b"a", b"b"]
            async with working(stream, enter):
                await all_done(stream)
                with pytest.raises(LeaseLost):
                    await earlier.commit(old, [CompletedEntry(old.in_flight[0], AtomicEffects())])
        assert await ledger(stream) == ["a", "b"]


async def test_a_zombies_commit_is_refused(server):
    """It slept in a handler while its partition passed on.

    Nothing of its attempt is kept, and it works on.
    """
    asleep, wake = asyncio.Event(), asyncio.Event()

    async def sleepy(entry, effects):
        effects.add("RPUSH", "ledger:bob", b"zombie " + entry.data)
        asleep.set()
        await wake.wait()

    async with orders(server, "a", "b", partitions=1) as stream:
        zombie = hired(stream, sleepy, "a-zombie", lease_ms=SHORT_MS)
        task = asyncio.create_task(zombie.run())
        await asleep.wait()
        async with working(stream, enter, "b", lease_ms=LONG_MS):
            await all_done(stream)
            wake.set()
            await stream.append(
                "bob", "c"
            )  # the zombie comes first by name: it gets the partition back
            await all_done(stream)
        await zombie.stop()
        await task
        lines = await ledger(stream)
        assert lines[:2] == ["a", "b"] and lines[2:] in (["c"], ["zombie c"])


# Lines that break, servers that die


@pytest.mark.parametrize("fault", ["answer lost", "request lost", "request late"])
async def test_a_commit_that_is_not_answered_has_its_effects_exactly_once(server, fault):
    """Done or not, or done later, when the same entries were handled again.

    The offset says which.
    """
    async with FaultProxy(server.url) as proxy, orders(server) as control:
        strike = {
            "answer lost": proxy.drop_reply,
            "request lost": proxy.drop_request,
            "request late": proxy.delay_request,
        }[fault]
        limits = ConnectionConfig(timeout_s=0.3, connect_timeout_s=1.0, backoff=QUICK)
        async with orders(server, url=proxy.url, config=limits) as stream, working(stream, enter):
            for round_ in range(2):
                strike(Match(containing=b"m%d" % round_))
                await asyncio.gather(
                    *(control.append("bob", f"m{round_}-{number}") for number in range(5))
                )
                await wait_until(lambda wanted=round_ + 1: proxy.triggered == wanted)
                await all_done(control)
                proxy.release()
                async with asyncio.timeout(10):
                    await proxy.wait_flushed()
        assert await ledger(control) == [
            f"m{round_}-{number}" for round_ in range(2) for number in range(5)
        ]
        assert await no_letters(control)


async def test_a_commit_comes_once_even_from_the_same_lease(server):
    """The same entries with the same token, again: refused by the offset, nothing changes."""
    async with orders(server, "a", "b", partitions=1) as stream:
        async with PartitionAssignments(
            stream, "billing", "w", lease_ms=LONG_MS, batch_size=10
        ) as assignments:
            await assignments.heartbeat()
            await assignments.read(100)
            (mine,) = assignments.assigned
            done, offset = [], mine.offset
            for entry in mine.in_flight:
                done.append(CompletedEntry(entry, AtomicEffects()))
                enter(*done[-1])
            assert await assignments.commit(mine, done) == (2, "")
            mine.offset = offset
            with pytest.raises(LeaseLost):
                await assignments.commit(mine, done)
        assert await ledger(stream) == ["a", "b"]


async def test_lines_that_are_cut_while_working_are_waited_for(server):
    """Both of the worker's connections, again and again."""
    async with orders(server, name="cut-me") as stream, orders(server) as control:
        async with working(stream, enter, "cut-me", batch_size=5, retry=PATIENT):
            for number in range(100):
                await control.append(f"c{number % 5}", str(number))
                if number % 20 == 10:
                    await cut_connections(server.url, "cut-me")
            await all_done(control)
        for name in range(5):
            assert await ledger(control, f"c{name}") == [
                str(number) for number in range(name, 100, 5)
            ]
        assert await no_letters(control)


async def test_exactly_once_holds_when_the_server_is_killed_and_restarted(lab_server):
    """With appendfsync always, while a producer sends and a worker works."""
    async with EmbeddedServer(persistence="always") as server, orders(server) as stream:
        producer = IdempotentProducer(stream.append, max_attempts=200, backoff=QUICK)
        async with working(stream, enter, retry=PATIENT, batch_size=7):
            for number in range(60):
                if number % 25 == 20:
                    server.kill()
                    await server.start()
                await producer.send(f"c{number % 3}", b"%d" % number)
            await wait_until(lambda: stream.queue.is_connected)
            await all_done(stream)
        for name in range(3):
            assert await ledger(stream, f"c{name}") == [
                str(number) for number in range(name, 60, 3)
            ]
        assert await no_letters(stream)


# Stopping


async def test_stopping_finishes_the_handler_that_runs_and_commits(server):
    """What was read behind it is the next worker's."""
    begun, go, got = asyncio.Event(), asyncio.Event(), []

    async def slow(entry, effects):
        begun.set()
        await go.wait()
        got.append(entry.data)
        enter(entry, effects)

    async with orders(server, "a", "b", "c") as stream:
        worker = hired(stream, slow)
        task = asyncio.create_task(worker.run())
        await begun.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.02)
        assert not stopping.done()
        go.set()
        await asyncio.gather(stopping, task)
        assert (got, await ledger(stream)) == ([b"a"], ["a"])
        async with working(stream, enter, "next"):
            await all_done(stream)
        assert await ledger(stream) == ["a", "b", "c"]


async def test_stopping_before_it_began_and_twice_returns(server):
    """A worker that never ran has nothing to finish, and does not run any more."""
    async with orders(server, "a") as stream, asyncio.timeout(5):
        worker = hired(stream, enter)
        task = asyncio.create_task(worker.run())
        await asyncio.gather(worker.stop(), worker.stop())
        await task
        assert await ledger(stream) == []


async def test_stopping_while_the_server_is_gone_returns(server):
    """It cannot say good-bye: its lease will end by itself."""
    limits = ConnectionConfig(timeout_s=0.2, connect_timeout_s=0.2, backoff=QUICK)
    async with (
        orders(server, "a", config=limits) as stream,
        asyncio.timeout(10),
        working(stream, enter),
    ):
        await all_done(stream)
        server.kill()


# Whatever happens


async def random_fates(server, seed):
    """Three posts, whose workers are stopped, cancelled, killed and cut off as the seed says."""
    chance, fates = random.Random(seed), {}

    def handler(name):
        async def handle(entry, effects):
            enter(entry, effects)
            fate = fates.pop(name, "")
            if fate == "die":
                raise Power
            await asyncio.sleep(SHORT_MS * 1.5e-3 if fate == "sleep" else 0.0005)
            if chance.random() < 0.02:
                raise OSError("shaky")

        return handle

    prefix = f"{seed}:"
    async with orders(server, prefix=prefix) as stream, contextlib.AsyncExitStack() as stack:
        posts = {}

        async def hire(post):
            name = f"{seed}-{post}{chance.choice('xy')}"
            own = await stack.enter_async_context(orders(server, name=name, prefix=prefix))
            worker = hired(own, handler(name), name, lease_ms=SHORT_MS, batch_size=9, retry=PATIENT)
            posts[post] = (name, worker, asyncio.create_task(worker.run()))

        async def write():
            for number in range(40):
                await asyncio.gather(
                    *(stream.append(f"c{name}", str(number)) for name in range(10))
                )
                await asyncio.sleep(0.01)

        async def fate_of(post):
            name, worker, task = posts[post]
            fate = chance.choice(["stop", "cancel", "die", "sleep", "cut", "nothing"])
            if task.done() or fate in ("stop", "cancel"):
                if fate == "cancel":
                    task.cancel()
                else:
                    await worker.stop()
                await asyncio.wait([task])
                fates.pop(name, None)
                await hire(post)
            elif fate == "cut":
                await cut_connections(server.url, name)
            elif fate != "nothing":
                fates[name] = fate

        writing = asyncio.create_task(write())
        for post in "abc":
            await hire(post)
        for _ in range(25):
            await asyncio.sleep(0.02)
            await fate_of(chance.choice("abc"))
        await writing
        async with working(stream, enter, "last", lease_ms=SHORT_MS, retry=PATIENT):
            await all_done(stream)
        for _, worker, task in posts.values():
            await worker.stop()
            await asyncio.wait([task])
        for name in range(10):
            lines = await ledger(stream, f"c{name}")
            assert Counter(lines).most_common(1)[0][1] == 1
            assert lines == list(map(str, range(40)))
        assert await no_letters(stream)


async def test_whoever_joins_leaves_and_dies_the_order_holds_and_each_effect_happens_once(server):
    """Under three seeds that nobody chose for being pretty."""
    await asyncio.gather(*(random_fates(server, seed) for seed in range(3)))

"""SequencedLog and its readers on a real server.

Numbered in one step, read in order, each once, gaps by name.
"""

import asyncio
import contextlib

import pytest
from redis.asyncio import Redis

from mpim_lab.errors import (
    AlreadySubscribed,
    HandlerCancelled,
    InvalidMessage,
    InvalidParameter,
    MpimError,
    NotConnected,
    PositionOutOfRange,
)
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.producer import IdempotentProducer
from mpim_lab.mq.ordering.ordered_reader import MissingRange, OrderedReader
from mpim_lab.mq.ordering.sequenced_log import AppendResult, SequencedLog, SequencedMessage
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

SOON = {"gap_timeout_s": 0.02, "poll_interval_s": 0.1}
LIMITS = ConnectionConfig(
    timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.02)
)


@contextlib.asynccontextmanager
async def chat(server, *payloads, **options):
    """The conversations "chat"; bob's holds `payloads`."""
    id_ttl_s = options.pop("id_ttl_s", 100)
    async with MessageQueue(server.url, **{"config": LIMITS} | options) as mq:
        conversations = SequencedLog(mq, "chat", id_ttl_s=id_ttl_s)
        for payload in payloads:
            await conversations.append("bob", payload)
        yield conversations


class Reading:
    """What a reader was handed, and the reader."""

    def __init__(self, conversations, handler=None, **options):
        self.got = []
        self.reader = OrderedReader(conversations, "bob", handler or self.take, **SOON | options)

    def take(self, numbered):
        self.got.append(numbered)

    @property
    def numbers(self):
        return [numbered.sequence for numbered in self.got]

    async def __aenter__(self):
        self.task = asyncio.create_task(self.reader.run())
        return self

    async def __aexit__(self, *exc_info):
        async with asyncio.timeout(10):
            await self.reader.stop()
            await self.task

    async def until(self, count):
        """Wait for so many."""
        await wait_until(lambda: len(self.got) >= count or self.task.done())
        assert len(self.got) == count


async def call(conversations, *words):
    """What the server says."""
    return await conversations.queue.context("ask").connection.call(*words)


async def listening(conversations):
    """Wait until somebody is subscribed to bob's channel."""
    async with asyncio.timeout(10):
        while not await conversations.queue.subscriber_count("conv:{chat:bob}:live"):
            await asyncio.sleep(0.005)


# Writing


async def test_an_id_that_comes_again_gets_its_first_number(server):
    """It is not in the log twice and not published twice, whatever its payload is now."""
    published = []
    async with chat(server) as conversations:
        await conversations.queue.subscribe(
            "conv:{chat:bob}:live", lambda message: published.append(message.payload)
        )
        assert await conversations.append("bob", b"hi", id="m1") == AppendResult(1, True)
        assert await conversations.append("bob", b"there", id="m2") == AppendResult(2, True)
        assert await conversations.append("bob", b"hi again", id="m1") == AppendResult(1, False)
        await conversations.queue.drain()
        assert await conversations.read_range("bob", 1) == [
            SequencedMessage("bob", 1, b"hi"),
            SequencedMessage("bob", 2, b"there"),
        ]
    assert published == [b"1 hi", b"2 there"]


async def test_without_an_id_every_message_is_a_new_one(server):
    """Each append makes its own."""
    async with chat(server, "hi", "hi") as conversations:
        assert len(await conversations.read_range("bob", 1)) == 2


async def test_conversations_are_numbered_apart(server):
    """Each begins with 1; names may hold anything."""
    async with chat(server) as conversations:
        for name in ("bob", "carol", "晚 \r\n:"):
            assert await conversations.append(name, name) == AppendResult(1, True)
            assert await conversations.read_range(name, 1) == [
                SequencedMessage(name, 1, name.encode())
            ]


async def test_many_writers_leave_no_gap_and_the_log_is_in_order(server):
    """Two queues, five hundred messages at once, each sent twice.

    Numbers 1 to 500, as the log has them.
    """
    async with chat(server) as one, chat(server) as other:
        sends = [
            who.append("bob", f"m{n}", id=f"id{n}") for n in range(500) for who in (one, other)
        ]
        appended = await asyncio.gather(*sends)
        assert sorted(each.sequence for each in appended if each.is_new) == list(range(1, 501))
        number_of = {f"m{n}".encode(): appended[2 * n].sequence for n in range(500)}
        assert all(appended[2 * n].sequence == appended[2 * n + 1].sequence for n in range(500))
        log = await one.read_range("bob", 1, count=1_000)
        assert [numbered.sequence for numbered in log] == list(range(1, 501))
        assert {numbered.payload: numbered.sequence for numbered in log} == number_of


async def test_on_the_wire_it_is_a_number_a_space_and_the_payload(server):
    """For any client, redis-cli included; any bytes; the log's id is the number."""
    payload = b"a b\r\n\x00\xff"
    async with chat(server) as conversations:
        reader, writer = await asyncio.open_connection(
            *server.url.removeprefix("redis://").split("/")[0].split(":")
        )
        with contextlib.closing(writer):
            writer.write(b"SUBSCRIBE conv:{chat:bob}:live\r\n")
            await reader.readuntil(b":1\r\n")
            await conversations.append("bob", payload, id="m1")
            expected = b"*3\r\n$7\r\nmessage\r\n$20\r\nconv:{chat:bob}:live\r\n$%d\r\n1 %b\r\n" % (
                len(payload) + 2,
                payload,
            )
            assert await reader.readexactly(len(expected)) == expected
        raw = await call(conversations, "XRANGE", "conv:{chat:bob}:log", "-", "+")
        assert raw == [[b"1-0", [b"id", b"m1", b"data", payload]]]


async def test_the_log_is_read_by_number_and_trimmed(server):
    """From, to, at most so many; what was trimmed is gone, and numbers go on."""
    async with chat(server, *"abcdef") as conversations:
        for bounds, numbers in (
            ((2, 4), [2, 3, 4]),
            ((5,), [5, 6]),
            ((7,), []),
            ((1, None, 2), [1, 2]),
        ):
            assert [
                numbered.sequence for numbered in await conversations.read_range("bob", *bounds)
            ] == numbers
        assert await conversations.trim("bob", max_entries=2) == 4
        assert [numbered.sequence for numbered in await conversations.read_range("bob", 1)] == [
            5,
            6,
        ]
        await conversations.trim("bob", max_entries=0)
        assert await conversations.append("bob", "g") == AppendResult(7, True)


async def test_an_id_is_remembered_for_so_long(server):
    """The number and the log have no lifetime."""
    async with chat(server, id_ttl_s=100) as conversations:
        await conversations.append("bob", "hi", id="m1")
        assert 95_000 < await call(conversations, "PTTL", "conv:{chat:bob}:sent:m1") <= 100_000
        assert [
            await call(conversations, "PTTL", key)
            for key in ("conv:{chat:bob}:seq", "conv:{chat:bob}:log")
        ] == [
            -1,
            -1,
        ]
        with pytest.raises(InvalidParameter, match="id_ttl_s=0"):
            SequencedLog(conversations.queue, "chat", id_ttl_s=0)


async def test_what_cannot_be_sent_is_refused(server):
    """Nothing is numbered."""
    async with chat(server, max_payload_bytes=3) as conversations:
        for wrong in (("bob", b"four"), ("\udcff", b"x"), ("bob", b"x", "\udcff")):
            with pytest.raises(InvalidMessage):
                await conversations.append(*wrong)
        assert await conversations.append("bob", b"x") == AppendResult(1, True)


async def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_id(server):
    """A producer over a line that breaks after, before and after the server has done it.

    Once each, in order.
    """
    async with chat(server) as control, FaultProxy(server.url) as proxy:
        async with MessageQueue(proxy.url, config=LIMITS) as mq:
            producer = IdempotentProducer(
                SequencedLog(mq, "chat").append, backoff=LIMITS.backoff, max_attempts=50
            )
            await producer.send("bob", b"m0")
            for number, fault in enumerate(
                (proxy.drop_reply, proxy.drop_request, proxy.drop_reply), start=1
            ):
                fault(Match(containing=b"m%d" % number))
                await producer.send("bob", b"m%d" % number)
        assert proxy.triggered == 3
        assert [numbered.payload for numbered in await control.read_range("bob", 1)] == [
            b"m0",
            b"m1",
            b"m2",
            b"m3",
        ]


# Reading


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_reader_gets_what_was_written_before_and_what_is_written_while_it_listens(
    server, is_async
):
    """In order, each once, with its number."""
    got = []

    async def later(numbered):
        await asyncio.sleep(0)
        got.append(numbered)

    async with (
        chat(server, "a", "b") as conversations,
        Reading(conversations, later if is_async else got.append) as reading,
    ):
        await wait_until(lambda: len(got) == 2)
        for payload in "cde":
            await conversations.append("bob", payload)
        await wait_until(lambda: len(got) == 5)
    assert got == [
        SequencedMessage("bob", number, payload.encode())
        for number, payload in enumerate("abcde", start=1)
    ]
    assert (reading.reader.position, reading.reader.missing_ranges) == (5, [])


async def test_a_reader_may_begin_after_a_number(server):
    """What is up to it is not handed over, though the log has it."""
    async with chat(server, *"abc") as conversations, Reading(conversations, after=2) as reading:
        await conversations.append("bob", "d")
        await reading.until(2)
    assert reading.numbers == [3, 4]


async def test_a_reader_that_joins_a_busy_conversation_misses_nothing(server):
    """Log and channel overlap while it catches up."""
    async with chat(server, *map(str, range(700))) as conversations, chat(server) as other:
        writing = asyncio.gather(
            *(other.append("bob", str(number)) for number in range(700, 1_500))
        )
        async with Reading(conversations) as reading:
            await writing
            await reading.until(1_500)
    assert reading.numbers == list(range(1, 1_501))


async def test_nothing_is_lost_and_nothing_comes_twice_when_lines_are_cut(server):
    """Both of the reader's connections, again and again, while somebody writes."""
    async with (
        chat(server, name="cut-me") as conversations,
        chat(server) as writer,
        Reading(conversations) as reading,
    ):
        for number in range(150):
            await writer.append("bob", str(number))
            if number % 30 == 10:
                await cut_connections(server.url, "cut-me")
        await reading.until(150)
    assert reading.numbers == list(range(1, 151)) and reading.reader.missing_ranges == []


async def test_what_was_missed_last_is_looked_for(server):
    """No later message says that there is a gap; the reader looks every `poll_interval_s`."""
    async with chat(server, "a") as conversations, Reading(conversations) as reading:
        await reading.until(1)
        await call(conversations, "SET", "conv:{chat:bob}:seq", "2")
        await call(
            conversations, "XADD", "conv:{chat:bob}:log", "2-0", "id", "m2", "data", "unpublished"
        )
        await reading.until(2)
    assert reading.got[-1] == SequencedMessage("bob", 2, b"unpublished")


async def publish(conversations, *numbers):
    """Only on the channel, as if it came early or again."""
    for number in numbers:
        await conversations.queue.publish("conv:{chat:bob}:live", b"%d %d" % (number, number))


async def test_early_arrivals_and_repeats_are_put_in_order(server):
    """The channel alone, in any order."""
    async with (
        chat(server) as conversations,
        Reading(conversations, gap_timeout_s=60.0, poll_interval_s=60.0) as reading,
    ):
        await listening(conversations)
        await publish(conversations, 3, 1, 3, 1, 2, 5, 2, 4, 5)
        await reading.until(5)
    assert reading.numbers == [1, 2, 3, 4, 5]


async def test_beyond_the_limit_the_log_is_asked_at_once(server):
    """Long before the gap is overdue: one more early arrival than may wait."""
    async with (
        chat(server) as conversations,
        Reading(conversations, gap_timeout_s=60.0, poll_interval_s=60.0, limit=3) as reading,
    ):
        await listening(conversations)
        await asyncio.sleep(0.05)  # the first look at the log is over
        await call(conversations, "SET", "conv:{chat:bob}:seq", "10")
        for number in range(1, 11):
            await call(
                conversations,
                "XADD",
                "conv:{chat:bob}:log",
                f"{number}-0",
                "id",
                f"m{number}",
                "data",
                f"{number}",
            )
        await publish(conversations, 3, 4, 5)
        await conversations.queue.drain()
        assert reading.got == []
        await publish(conversations, 9)
        await reading.until(10)
    assert reading.numbers == list(range(1, 11))


async def test_what_the_log_has_lost_is_named_told_and_passed_over(server):
    """One gap, not five messages that never come."""
    told = []
    async with chat(server, *"abcdefg") as conversations:
        await conversations.trim("bob", max_entries=2)
        async with Reading(conversations, on_missing=told.append) as reading:
            await reading.until(2)
            await conversations.append("bob", "h")
            await reading.until(3)
    assert told == reading.reader.missing_ranges == [MissingRange(1, 5)]
    assert (reading.numbers, reading.reader.position) == ([6, 7, 8], 8)


@pytest.mark.parametrize(
    ("early", "gone", "gaps"),
    [
        ([3], [1, 2, 3, 4], [MissingRange(1, 2), MissingRange(4, 4)]),
        (
            [2, 5],
            [1, 2, 3, 4, 5, 6, 7],
            [MissingRange(1, 1), MissingRange(3, 4), MissingRange(6, 7)],
        ),
        ([], [3, 4, 6], [MissingRange(3, 4), MissingRange(6, 6)]),
        ([7], [3, 7], [MissingRange(3, 3)]),
        ([1, 2], [1, 2], []),
    ],
)
async def test_every_number_is_handed_over_or_in_a_named_gap(server, early, gone, gaps):
    """Holes in the middle of the log; early arrivals that the log does not have any more."""
    async with (
        chat(server) as conversations,
        Reading(conversations, gap_timeout_s=0.1, poll_interval_s=60.0) as reading,
    ):
        await listening(conversations)
        async with Redis.from_url(server.url) as another, another.pipeline() as at_once:
            for number in range(1, 9):
                at_once.execute_command(
                    "XADD", "conv:{chat:bob}:log", f"{number}-0", "id", "m", "data", f"{number}"
                )
            at_once.execute_command("SET", "conv:{chat:bob}:seq", "8")
            at_once.execute_command(
                "XDEL", "conv:{chat:bob}:log", *(f"{number}-0" for number in gone)
            )
            for number in early:
                at_once.execute_command("PUBLISH", "conv:{chat:bob}:live", f"{number} {number}")
            at_once.execute_command("PUBLISH", "conv:{chat:bob}:live", "8 8")
            await at_once.execute()
        await wait_until(lambda: reading.reader.position == 8)
    assert reading.reader.missing_ranges == gaps
    assert reading.numbers == [
        number for number in range(1, 9) if number not in gone or number in early
    ]
    lost = [number for gap in gaps for number in range(gap.first, gap.last + 1)]
    assert sorted(reading.numbers + lost) == list(range(1, 9))


async def test_garbage_on_the_channel_is_ignored(server):
    """What is not "<number> <payload>" disturbs nobody; an empty payload is one."""
    async with chat(server) as conversations, Reading(conversations) as reading:
        await listening(conversations)
        for garbage in (
            "",
            " ",
            "hello",
            "-1 x",
            "1.5 x",
            "x 1",
            "٣ x",
            "0 zero",
            "9" * 5_000 + " x",
        ):
            await conversations.queue.publish("conv:{chat:bob}:live", garbage)
        await conversations.append("bob", "")
        await conversations.append("bob", "b c")
        await reading.until(2)
    assert [numbered.payload for numbered in reading.got] == [b"", b"b c"]


# Ends


class Power(BaseException):
    """No handler of exceptions sees it."""


@pytest.mark.parametrize("error", [ValueError, NotConnected, Power])
@pytest.mark.parametrize("comes", ["from the log", "as it is published"])
async def test_a_handler_that_raises_ends_the_reader_with_its_error(server, error, comes):
    """The position is before what failed; a new reader goes on from there, and so does this one."""
    got = []

    def handle(numbered):
        if numbered.payload == b"c" and not reading_again:
            raise error("c")
        got.append(numbered.payload)

    reading_again = False
    async with chat(server) as conversations:
        reader = OrderedReader(conversations, "bob", handle, **SOON)
        if comes == "from the log":
            for payload in "abcd":
                await conversations.append("bob", payload)
        task = asyncio.create_task(reader.run())
        if comes != "from the log":
            await listening(conversations)
            await asyncio.gather(*(conversations.append("bob", payload) for payload in "abcd"))
        async with asyncio.timeout(10):
            with pytest.raises(error):
                await task
        assert (reader.position, got) == (2, [b"a", b"b"])
        await reader.stop()  # it has ended: nothing to wait for
        reading_again = True
        async with Reading(conversations, handle, after=reader.position):
            await wait_until(lambda: len(got) == 4)
    assert got == [b"a", b"b", b"c", b"d"]


async def test_the_same_reader_may_run_again_after_an_error(server):
    """It goes on after the last one handled."""
    got, broken = [], [True]

    def handle(numbered):
        if numbered.sequence == 2 and broken.pop():
            raise ValueError
        got.append(numbered.sequence)

    async with chat(server, *"abc") as conversations:
        reader = OrderedReader(conversations, "bob", handle, **SOON)
        broken.insert(0, False)
        with pytest.raises(ValueError):  # noqa: PT011
            await reader.run()
        task = asyncio.create_task(reader.run())
        await wait_until(lambda: len(got) == 3)
        await reader.stop()
        await task
    assert got == [1, 2, 3]


async def test_an_on_gap_that_raises_ends_the_reader_with_its_error(server):
    """It is somebody's decision that a gap is not acceptable."""

    def refuse(gap):
        raise ValueError(f"{gap.first}-{gap.last}")

    async with chat(server, *"abc") as conversations:
        await conversations.trim("bob", max_entries=1)
        async with asyncio.timeout(10):
            reader = OrderedReader(conversations, "bob", print, on_missing=refuse, **SOON)
            with pytest.raises(ValueError, match="1-2"):
                await reader.run()
    assert reader.position == 0


async def test_two_readers_of_one_conversation_need_two_queues(server):
    """The second is refused by name, and the first is undisturbed."""
    async with chat(server) as conversations, Reading(conversations) as reading:
        await listening(conversations)
        with pytest.raises(AlreadySubscribed):
            await OrderedReader(conversations, "bob", print).run()
        await conversations.append("bob", "a")
        await reading.until(1)


@pytest.mark.parametrize("comes", ["from the log", "as it is published"])
async def test_stopping_lets_the_handler_that_runs_finish(server, comes):
    """Its message is handled; those behind it are not, and are there for the next reader."""
    got, begun, go = [], asyncio.Event(), asyncio.Event()

    async def slow(numbered):
        begun.set()
        await go.wait()
        got.append(numbered.sequence)

    async with chat(server) as conversations:
        if comes == "from the log":
            for payload in "abc":
                await conversations.append("bob", payload)
        async with Reading(conversations, slow) as reading:
            await listening(conversations)
            if comes != "from the log":
                await asyncio.gather(*(conversations.append("bob", payload) for payload in "abc"))
            await begun.wait()
            stopping = asyncio.create_task(reading.reader.stop())
            await asyncio.sleep(0.02)
            assert not stopping.done()
            go.set()
            async with asyncio.timeout(10):
                await stopping
    assert (got, reading.reader.position) == ([1], 1)


@pytest.mark.parametrize("after_ms", [0, 1, 2, 3, 5, 8, 13, 21, 34])
async def test_stopping_at_any_moment_leaves_a_position_to_go_on_from(server, after_ms):
    """Also before it has begun, twice at once, and by cancelling.

    Nothing is lost, nothing comes twice.
    """
    got = []

    async def handle(numbered):
        await asyncio.sleep(0)
        got.append(numbered.sequence)

    async with chat(server, *map(str, range(300))) as conversations, chat(server) as other:
        writing = asyncio.gather(*(other.append("bob", str(number)) for number in range(300)))
        position = 0
        for end in ("stop", "cancel"):
            reader = OrderedReader(conversations, "bob", handle, after=position, **SOON)
            task = asyncio.create_task(reader.run())
            await asyncio.sleep(after_ms / 1e3)
            async with asyncio.timeout(10):
                if end == "stop":
                    await asyncio.gather(reader.stop(), reader.stop())
                    await task
                else:
                    task.cancel()
                    await asyncio.wait([task])
                    await reader.stop()
            assert got == list(range(1, reader.position + 1))
            position = reader.position
        await writing
        async with Reading(conversations, handle, after=position):
            await wait_until(lambda: len(got) >= 600)
    assert got == list(range(1, 601))


async def test_stopping_a_reader_that_never_ran_returns_and_it_never_runs(server):
    """Stopped is stopped."""
    async with chat(server, "a") as conversations, asyncio.timeout(5):
        reading = Reading(conversations)
        await reading.reader.stop()
        await reading.reader.run()
    assert reading.got == []


async def test_a_reader_that_cannot_begin_says_why_and_may_be_stopped(server):
    """The first subscription finds no server.

    NotConnected, and whoever waits for the end does not wait for ever.
    """
    async with chat(
        server, config=ConnectionConfig(timeout_s=0.2, connect_timeout_s=0.2)
    ) as conversations:
        server.kill()
        reader = OrderedReader(conversations, "bob", print, **SOON)
        task = asyncio.create_task(reader.run())
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            stopping = asyncio.create_task(reader.stop())
            with pytest.raises(MpimError):
                await task
            await stopping


async def test_a_reader_lives_through_a_server_that_is_killed_and_restarted(lab_server):
    """With appendfsync always the numbers go on, and so does the reader."""
    async with (
        EmbeddedServer(persistence="always") as server,
        chat(server) as conversations,
        Reading(conversations) as reading,
    ):
        producer = IdempotentProducer(
            conversations.append, max_attempts=100, backoff=LIMITS.backoff
        )
        for number in range(30):
            if number == 15:
                server.kill()
                await server.start()
            await producer.send("bob", b"%d" % number)
        await reading.until(30)
    assert reading.numbers == list(range(1, 31))
    assert [int(numbered.payload) for numbered in reading.got] == list(range(30))


async def test_the_same_id_in_two_conversations_is_two_messages(server):
    """An application may count its ids anew in each conversation; none of them is lost for that."""
    async with chat(server) as conversations:
        assert await conversations.append("ann", "hello", id="1") == (1, True)
        assert await conversations.append("bob", "hello", id="1") == (1, True)
        assert await conversations.append("bob", "hello", id="1") == (1, False)


@pytest.mark.parametrize("when", ["before", "while it reads"])
async def test_a_reader_whose_conversation_was_lost_by_the_server_says_so(server, when):
    """Its numbers begin anew.

    They would be taken for what was handled, and passed over in silence.
    """
    got = []
    async with chat(server, "1", "2", "3") as conversations:
        reader = OrderedReader(
            conversations,
            "bob",
            lambda numbered: got.append(numbered.sequence),
            poll_interval_s=0.05,
        )
        running = asyncio.create_task(reader.run())
        await wait_until(lambda: reader.position == 3)
        if when == "before":
            await reader.stop()
            await running
        await call(conversations, "FLUSHALL")
        await conversations.append("bob", "new")
        if when == "before":
            running = asyncio.create_task(reader.run())
        async with asyncio.timeout(10):
            with pytest.raises(PositionOutOfRange, match=r"3 was handled, .* ends at number [01]"):
                await running
        assert got == [1, 2, 3]


async def test_what_another_program_put_into_the_log_is_a_gap(server):
    """It is no message of that number; the reader goes on."""
    async with chat(server, "1") as conversations:
        await call(conversations, "XADD", "conv:{chat:bob}:log", "2-0", "a", "b")
        await call(conversations, "XADD", "conv:{chat:bob}:log", "3-0", "id", "m", "data", "3")
        await call(conversations, "SET", "conv:{chat:bob}:seq", "3")
        async with Reading(conversations) as reading:
            await reading.until(2)
        assert (reading.numbers, reading.reader.missing_ranges) == ([1, 3], [MissingRange(2, 2)])


class NoException(BaseException):
    """As those of pytest.fail and pytest.skip."""


@pytest.mark.parametrize(
    ("error", "comes"),
    [(asyncio.CancelledError, HandlerCancelled), (NoException, NoException)],
    ids=["cancelled", "base"],
)
async def test_a_reader_ends_whatever_its_on_gap_raises(server, error, comes):
    """Its checks would have ended without a word, and it would have waited for ever."""

    def on_missing(gap):
        raise error

    async with chat(server, *"abc") as conversations:
        await conversations.trim("bob", max_entries=1)
        reader = OrderedReader(conversations, "bob", print, on_missing=on_missing, **SOON)
        async with asyncio.timeout(10):
            with pytest.raises(comes):
                await reader.run()


async def test_a_reader_whose_checks_somebody_cancels_ends(server):
    """As whoever cancels all tasks but his own does; without them it would wait for ever."""
    async with chat(server, "1") as conversations:
        reader = OrderedReader(conversations, "bob", print, **SOON)
        running = asyncio.create_task(reader.run())
        await wait_until(lambda: reader.position == 1)
        for task in asyncio.all_tasks():
            if task.get_coro().__name__ == "_poll_periodically":
                task.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(HandlerCancelled, match="checks"):
                await running

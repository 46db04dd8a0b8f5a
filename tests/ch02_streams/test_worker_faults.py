"""Worker under faults: it dies, it is cancelled, its lines break.

Nothing is lost, some of it is done twice.
"""

import asyncio

import pytest

from mpim_lab.errors import ConnectionLost
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.mq.connection.retry import RetryPolicy
from mpim_lab.mq.streams.worker import Worker
from tests.streams import AN_HOUR_MS, FAST, everything_done, letters, shop, working
from tests.support import wait_until


class Power(BaseException):
    """A power cut: no handler of exceptions sees it."""


async def test_an_entry_that_kills_whoever_has_it_is_buried_by_a_later_worker(server):
    """It never raises an Exception, so nobody counts but the server."""
    got = []

    async def deadly(entry):
        got.append(entry.data)
        if entry.data == b"poison":
            raise Power

    async with shop(server, "poison", "b") as (group, _):
        for number in range(3):
            with pytest.raises(Power):
                await Worker(
                    group, f"w{number}", deadly, retry=FAST, batch_size=1, claim_idle_ms=1
                ).run()
        async with working(group, deadly, "survivor", claim_idle_ms=1):
            (letter,) = await letters(group)
            await everything_done(group)
    assert (letter.reason, letter.deliveries, letter.fields) == (
        "delivered too often",
        4,
        {"data": b"poison"},
    )
    assert sorted(got) == [b"b", b"poison", b"poison", b"poison"]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_crash_between_the_work_and_its_acknowledgement_delivers_again(server, is_async):
    """Never acknowledged before it was handled: at least once."""
    got = []

    def plain(entry):
        got.append(entry.data)
        if entry.data == b"b":
            raise Power

    async def later(entry):
        plain(entry)

    async with shop(server, "a", "b", "c") as (group, _):
        with pytest.raises(Power):
            await Worker(group, "dead", later if is_async else plain).run()
        assert [line.deliveries for line in await group.pending()][-2:] == [1, 1]
        async with working(group, lambda entry: got.append(entry.data + b"!"), claim_idle_ms=1):
            await everything_done(group)
    assert {b"a", b"b", b"b!", b"c!"} <= set(got)
    assert b"c" not in got


async def test_a_worker_that_is_cancelled_gives_back_what_it_had(server):
    """The entry in the handler's hands, too: its work was not finished."""
    begun, got = asyncio.Event(), []

    async def endless(entry):
        begun.set()
        await asyncio.Event().wait()

    async with shop(server, "a", "b") as (group, _):
        task = asyncio.create_task(Worker(group, "first", endless).run())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with working(
            group, lambda entry: got.append(entry.data), "second", claim_idle_ms=AN_HOUR_MS
        ):
            await everything_done(group)
    assert got == [b"a", b"b"]


async def test_a_line_that_breaks_while_working_is_waited_for(server):
    """Nothing is lost; what was in hand may come twice."""
    got = []
    async with (
        shop(server) as (group, stream),
        working(group, lambda entry: got.append(entry.data), "cut-me"),
    ):
        for number in range(60):
            await stream.add(str(number))
            if number % 20 == 10:
                await cut_connections(server.url, "cut-me")
        await wait_until(lambda: len(set(got)) == 60)
        await everything_done(group)


@pytest.mark.parametrize(
    ("kind", "concurrency"), [("plain", 1), ("async", 2), ("refuses", 1), ("refuses", 2)]
)
async def test_what_could_not_be_finished_because_the_line_broke_is_handled_again(
    server, monkeypatch, kind, concurrency
):
    """An acknowledgement or a burial that fails.

    The entry is still pending, and this worker takes it up again.
    """
    got = []

    def plain(entry):
        got.append(entry.data)
        if kind == "refuses":
            raise ValueError

    async def later(entry):
        got.append(entry.data)

    async with shop(server, *"abcdef") as (group, _):
        commands, broken = group.context.connection, []
        call = commands.call

        async def breaks_at_first(*words):
            if words[0] in ("XACK", "EVALSHA") and len(broken) < 2:
                broken.append(words)
                raise ConnectionLost("the line broke")
            return await call(*words)

        monkeypatch.setattr(commands, "call", breaks_at_first)
        async with working(
            group,
            later if kind == "async" else plain,
            retry=RetryPolicy(1, FAST.backoff),
            concurrency=concurrency,
        ):
            await everything_done(group)
        assert len(broken) == 2
        assert {*got} | {letter.fields["data"] for letter in await group.dead_letters.list()} == {
            *map(str.encode, "abcdef")
        }

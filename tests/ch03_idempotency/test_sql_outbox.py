"""SqlOutbox on real databases and servers: what was committed is sent, at least once, in order.

Nothing else is.
"""

import asyncio
import contextlib
import itertools

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    InvalidMessage,
    InvalidParameter,
    NotConnected,
    QueueClosed,
    StoreFailed,
)
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.idempotency.sql_inbox import SqlInbox
from mpim_lab.mq.idempotency.sql_outbox import SqlOutbox
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.streams import everything_done, working
from tests.support import wait_until

ORDERS = Table(
    "orders", MetaData(), Column("number", Integer, primary_key=True), Column("what", String(255))
)
A_LONG_TIME_S = 60


class Crash(BaseException):
    """The process goes down: nobody handles this."""


@contextlib.asynccontextmanager
async def opened(path):
    """An outbox and its store, which has a table of orders, too."""
    async with SqlDatabase(f"sqlite+aiosqlite:///{path}") as store:
        store.register_tables(ORDERS)
        yield SqlOutbox(store), store


@pytest.fixture
async def shop(tmp_path):
    """An outbox and its store, in a file."""
    async with opened(tmp_path / "shop.db") as pair:
        yield pair


@pytest.fixture
async def mq(server):
    limits = ConnectionConfig(timeout_s=0.5, connect_timeout_s=0.5)
    async with MessageQueue(server.url, config=limits) as queue:
        yield queue


async def place(shop, what, stream="orders"):
    """An order and its message in one transaction; gives the message's id."""
    outbox, store = shop
    message_id = new_message_id()
    async with store.transaction() as connection:
        await connection.execute(insert(ORDERS).values(what=what))
        await outbox.add(connection, stream, message_id, what)
    return message_id


async def orders(store):
    async with store.transaction() as connection:
        return (await connection.execute(select(func.count()).select_from(ORDERS))).scalar_one()


async def sent(mq, stream="orders"):
    """What a stream has: ids and payloads."""
    return [
        (entry.fields["id"].decode(), entry.data.decode())
        for entry in await mq.stream(stream).read(count=10_000)
    ]


def first_copies(entries):
    """Without the repeats."""
    return list(dict.fromkeys(entries))


def dies_before_deleting(outbox, monkeypatch, times=1):
    """The process goes down between the stream's answer and the deletion."""
    delete, count = outbox.delete, itertools.count(1)

    async def dying(*ids):
        if next(count) <= times:
            raise Crash
        return await delete(*ids)

    monkeypatch.setattr(outbox, "delete", dying)


@contextlib.asynccontextmanager
async def relaying(outbox, mq, **options):
    """A relay that runs until the end of the block."""
    relay = outbox.relay(mq, **options)
    task = asyncio.create_task(relay.run())
    yield relay
    await relay.stop()
    await task


# Writing


async def test_a_message_is_sent_with_its_id_and_its_payload(shop, mq):
    """Payloads stay as they are, and text is UTF-8; the row is gone afterwards."""
    outbox, store = shop
    async with store.transaction() as connection:
        await outbox.add(connection, "orders", "m1", b"\x00\r\n\xff")
        await outbox.add(connection, "订单", "m2", "茶")
    assert [row[1:] for row in await outbox.pending()] == [
        ("orders", "m1", b"\x00\r\n\xff"),
        ("订单", "m2", "茶".encode()),
    ]
    assert await outbox.relay(mq).relay_once() == 2
    (entry,) = await mq.stream("orders").read()
    assert entry.fields == {"id": b"m1", "data": b"\x00\r\n\xff"}
    assert await sent(mq, "订单") == [("m2", "茶")]
    assert await outbox.count() == 0 and await outbox.pending() == []


async def test_what_a_rolled_back_transaction_wrote_is_never_sent(shop, mq):
    """An error, a crash, a roll-back by hand; the change of the business is undone with it."""
    outbox, store = shop
    for error in (ValueError(), Crash()):
        with pytest.raises(type(error)):
            async with store.transaction() as connection:
                await connection.execute(insert(ORDERS).values(what="tea"))
                await outbox.add(connection, "orders", new_message_id(), "tea")
                raise error
    assert await outbox.relay(mq).relay_once() == 0
    assert await orders(store) == 0 and await sent(mq) == []
    kept = await place(shop, "coffee")
    assert await outbox.relay(mq).relay_once() == 1
    assert await orders(store) == 1 and await sent(mq) == [(kept, "coffee")]


async def test_what_is_not_committed_yet_is_not_sent(shop, mq):
    """A relay never announces what may still be undone."""
    outbox, store = shop
    async with relaying(outbox, mq, poll_interval_s=0.01):
        async with store.transaction() as connection:
            await outbox.add(connection, "orders", "m1", "tea")
            await asyncio.sleep(0.1)
            assert await sent(mq) == []
        await wait_until_sent(mq, 1)


async def test_an_engine_and_a_session_of_the_callers_own_will_do(tmp_path, mq):
    """Any transaction on the same database, once the store has made the table."""
    async with opened(tmp_path / "shop.db") as (outbox, store):
        await store.open()
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
        async with AsyncSession(engine) as session:
            await outbox.add(session, "orders", "m1", "tea")
            await session.commit()
            await outbox.add(session, "orders", "m2", "tea")
            await session.rollback()
        await engine.dispose()
        assert await outbox.relay(mq).relay_once() == 1
        assert await sent(mq) == [("m1", "tea")]


async def test_rows_outlive_the_process_that_wrote_them(tmp_path, mq):
    """They wait in the file for any relay."""
    async with opened(tmp_path / "shop.db") as shop:
        first = await place(shop, "tea")
    async with opened(tmp_path / "shop.db") as (outbox, _):
        assert await outbox.relay(mq).relay_once() == 1
    assert await sent(mq) == [(first, "tea")]


async def test_what_cannot_be_sent_is_refused_when_it_is_written(shop):
    """Where its sender still hears of it, and not later in a relay."""
    outbox, store = shop
    for stream, name, payload in (
        ("", "m", ""),
        ("s", "", ""),
        ("s", "m", b"x" * (1024 * 1024 + 1)),
        ("s", "m", 17),
    ):
        with pytest.raises(InvalidMessage):
            async with store.transaction() as connection:
                await outbox.add(connection, stream, name, payload)
    assert await outbox.count() == 0
    for options in ({"batch_size": 0}, {"batch_size": 1_001}, {"poll_interval_s": 0}):
        with pytest.raises(InvalidParameter):
            outbox.relay(None, **options)


async def test_without_its_table_a_message_is_refused(tmp_path):
    """A store that has not made it, and another's connection.

    Nothing was written, and the error says so.
    """
    async with opened(tmp_path / "shop.db") as (outbox, _):
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
        async with engine.connect() as connection:
            with pytest.raises(StoreFailed, match="no such table"):
                await outbox.add(connection, "orders", "m1", "tea")
        await engine.dispose()


# Sending


async def test_order_is_kept_over_many_batches(shop, mq):
    """Also among streams; no more than the limit at once."""
    outbox, store = shop
    async with store.transaction() as connection:
        for number in range(250):
            await outbox.add(connection, f"s{number % 2}", f"m{number}", str(number))
    relay = outbox.relay(mq, batch_size=100)
    assert [await relay.relay_once() for _ in range(4)] == [100, 100, 50, 0]
    for parity in (0, 1):
        assert await sent(mq, f"s{parity}") == [
            (f"m{number}", str(number)) for number in range(parity, 250, 2)
        ]


async def test_row_ids_are_never_used_again(shop, mq):
    """Otherwise a row that is written late would be sent early."""
    outbox, _ = shop
    seen = []
    for _ in range(3):
        await place(shop, "tea")
        seen += [row.id for row in await outbox.pending()]
        await outbox.relay(mq).relay_once()
    assert seen == sorted(set(seen))


async def test_a_relay_that_dies_between_sending_and_deleting_sends_again_with_the_same_id(
    shop, mq, monkeypatch
):
    """At least once, and recognisable."""
    outbox, _ = shop
    ids = [await place(shop, "tea"), await place(shop, "coffee")]
    dies_before_deleting(outbox, monkeypatch)
    with pytest.raises(Crash):
        await outbox.relay(mq).relay_once()
    assert await outbox.count() == 2
    assert await outbox.relay(mq).relay_once() == 2
    assert await sent(mq) == [(ids[0], "tea"), (ids[1], "coffee")] * 2
    assert await outbox.count() == 0


async def test_outbox_and_inbox_together_have_each_effect_once(tmp_path, mq, monkeypatch):
    """From one database to another, over relays that die and a worker that gets all twice."""
    async with (
        opened(tmp_path / "shop.db") as (outbox, store),
        opened(tmp_path / "billing.db") as (_, books),
    ):
        inbox, group = SqlInbox(books, "billing"), await mq.stream("orders").group("billing")
        for number in range(20):
            await place((outbox, store), f"order {number}")
        dies_before_deleting(outbox, monkeypatch, times=3)
        for _ in range(3):
            with pytest.raises(Crash):
                await outbox.relay(mq).relay_once()
        assert await outbox.relay(mq).relay_once() == 20

        async def handle(entry):
            async def bill(connection):
                await connection.execute(insert(ORDERS).values(what=entry.data.decode()))

            await inbox.run(entry.fields["id"].decode(), bill)

        async with working(group, handle):
            await everything_done(group)
        assert await mq.stream("orders").length() == 80
        async with books.transaction() as connection:
            billed = (
                (await connection.execute(select(ORDERS.c.what).order_by(ORDERS.c.number)))
                .scalars()
                .all()
            )
        assert billed == [f"order {number}" for number in range(20)]


async def test_two_relays_lose_nothing_and_keep_the_order_of_first_copies(shop, mq):
    """They may both send a row; whoever receives takes the first copy."""
    outbox, store = shop
    async with store.transaction() as connection:
        for number in range(300):
            await outbox.add(connection, "orders", f"m{number}", str(number))
    async with (
        relaying(outbox, mq, batch_size=7, poll_interval_s=0.01),
        relaying(outbox, mq, batch_size=11, poll_interval_s=0.01),
    ):
        await wait_until_empty(outbox)
    assert first_copies(await sent(mq)) == [(f"m{number}", str(number)) for number in range(300)]


async def test_a_cancelled_relay_deletes_what_it_has_sent_and_leaves_the_rest(shop, mq):
    """In the midst of a batch."""
    outbox, store = shop
    async with store.transaction() as connection:
        for number in range(200):
            await outbox.add(connection, "orders", f"m{number}", str(number))
    task = asyncio.create_task(outbox.relay(mq, batch_size=200).relay_once())
    async with asyncio.timeout(10):
        while not await mq.stream("orders").length():
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = await outbox.count()
    assert 0 < left < 200
    while await outbox.relay(mq).relay_once():
        pass
    assert first_copies(await sent(mq)) == [(f"m{number}", str(number)) for number in range(200)]


# What goes wrong


async def test_while_the_server_is_away_rows_stay_and_nothing_is_sent(shop, mq, server):
    """By hand: the error has a name.

    Running: it is waited for, and everything arrives once it is back.
    """
    outbox, _ = shop
    server.kill()
    await wait_until(lambda: not mq.is_connected)
    ids = [await place(shop, str(number)) for number in range(3)]
    with pytest.raises(NotConnected):
        await outbox.relay(mq).relay_once()
    assert await outbox.count() == 3
    async with relaying(outbox, mq, poll_interval_s=0.05):
        await asyncio.sleep(0.2)
        assert await outbox.count() == 3
        await server.restart()
        await wait_until_empty(outbox)
    assert first_copies(await sent(mq)) == [(name, str(number)) for number, name in enumerate(ids)]


async def test_a_server_that_does_not_answer_leaves_the_row(shop, mq, server):
    """It may have the message: so it is sent again, and has the same id."""
    outbox, _ = shop
    first = await place(shop, "tea")
    assert await mq.stream("orders").length() == 0  # the layout of the keys was looked at
    server.pause()
    with pytest.raises((CommandTimeout, ConnectionLost)) as raised:
        await outbox.relay(mq).relay_once()
    assert raised.value.definite is False
    assert await outbox.count() == 1
    server.resume()
    async with relaying(outbox, mq):
        await wait_until_empty(outbox)
    assert first_copies(await sent(mq)) == [(first, "tea")]


async def test_a_row_that_the_server_refuses_stops_its_stream_and_no_other(shop, mq):
    """It waits, and those after it on its stream, until a person drops it or fixes the cause.

    Nothing is lost.
    """
    outbox, _ = shop
    await mq.context("list").connection.call("RPUSH", "list", "no stream")
    ids = [
        await place(shop, what, stream)
        for what, stream in (("tea", "orders"), ("a", "list"), ("coffee", "orders"))
    ]
    ids.append(await place(shop, "b", "list"))
    for _ in range(2):
        with pytest.raises(CommandRejected, match="WRONGTYPE"):
            await outbox.relay(mq).relay_once()
        assert [row.message_id for row in await outbox.pending()] == [ids[1], ids[3]]
    assert await sent(mq) == [(ids[0], "tea"), (ids[2], "coffee")]
    await mq.context("list").connection.call("DEL", "list")
    assert await outbox.relay(mq).relay_once() == 2
    assert await sent(mq, "list") == [(ids[1], "a"), (ids[3], "b")]


async def test_more_refused_rows_than_a_page_holds_do_not_hide_the_others(shop, mq, caplog):
    """A running relay looks past them.

    And says again and again, at growing intervals, that they are refused.
    """
    outbox, _ = shop
    await mq.context("list").connection.call("RPUSH", "list", "no stream")
    for number in range(7):
        await place(shop, str(number), "list")
    last = await place(shop, "tea")
    async with relaying(outbox, mq, batch_size=3, poll_interval_s=0.01):
        await wait_until_sent(mq, 1)
        await wait_until(lambda: sum("WRONGTYPE" in line for line in caplog.messages) >= 3)
        await mq.context("list").connection.call("DEL", "list")
        await wait_until_empty(outbox)
    assert await sent(mq) == [(last, "tea")]
    assert [text for _, text in await sent(mq, "list")] == [str(number) for number in range(7)]


async def test_a_server_that_refuses_for_now_is_waited_for(shop, mq):
    """A full server is no fault of the row's."""
    outbox, _ = shop
    ask = mq.context("config").connection.call
    await ask("CONFIG", "SET", "maxmemory", "1")
    first = await place(shop, "tea")
    with pytest.raises(CommandRejected, match="OOM"):
        await outbox.relay(mq).relay_once()
    async with relaying(outbox, mq):
        await asyncio.sleep(0.1)
        await ask("CONFIG", "SET", "maxmemory", "0")
        await wait_until_sent(mq, 1)
    assert await sent(mq) == [(first, "tea")]


async def test_a_relay_ends_by_name_once_its_queue_or_store_is_closed(tmp_path, server):
    """No repeat can change that."""
    async with MessageQueue(server.url) as queue, opened(tmp_path / "shop.db") as (outbox, store):
        await queue.close()
        await place((outbox, store), "tea")
        async with asyncio.timeout(10):
            with pytest.raises(QueueClosed):
                await outbox.relay(queue).run()
            await store.close()
            with pytest.raises(StoreFailed):
                await outbox.relay(queue).run()


async def test_stop_ends_in_its_time_although_the_server_is_silent(shop, server):
    """What is not done by then is cancelled; the row stays."""
    outbox, _ = shop
    async with MessageQueue(server.url, config=ConnectionConfig(timeout_s=60)) as queue:
        await place(shop, "tea")
        server.pause()
        try:
            relay = outbox.relay(queue)
            relay._close_timeout_s = 0.1
            running = asyncio.create_task(relay.run())
            await asyncio.sleep(0.1)
            async with asyncio.timeout(10):
                await relay.stop()
                await running
        finally:
            server.resume()
    assert await outbox.count() == 1


async def test_a_database_that_is_away_is_waited_for(shop, mq, monkeypatch):
    """A running relay goes on when it is back."""
    outbox, _ = shop
    first, pending, failures = await place(shop, "tea"), outbox.pending, []

    async def away(**options):
        if len(failures) < 3:
            failures.append(1)
            raise StoreFailed("away")
        return await pending(**options)

    monkeypatch.setattr(outbox, "pending", away)
    async with relaying(outbox, mq):
        await wait_until_sent(mq, 1)
    assert len(failures) == 3 and await sent(mq) == [(first, "tea")]


# Running


async def test_a_running_relay_sends_at_once_what_this_process_commits(shop, mq):
    """Without waiting for its next look."""
    outbox, _ = shop
    async with relaying(outbox, mq, poll_interval_s=A_LONG_TIME_S):
        for number in range(5):
            await place(shop, str(number))
            await wait_until_sent(mq, number + 1)


async def test_a_running_relay_finds_what_other_processes_wrote(tmp_path, mq):
    """When it looks the next time."""
    async with (
        opened(tmp_path / "shop.db") as (outbox, _),
        relaying(outbox, mq, poll_interval_s=0.02),
    ):
        async with opened(tmp_path / "shop.db") as other:
            await place(other, "tea")
        await wait_until_sent(mq, 1)


async def test_stop_returns_soon_and_twice_is_harmless(shop, mq):
    """Also when the relay sleeps, or never began."""
    outbox, _ = shop
    async with asyncio.timeout(5):
        await outbox.relay(mq).stop()
        async with relaying(outbox, mq, poll_interval_s=A_LONG_TIME_S) as relay:
            await asyncio.sleep(0.05)
            await relay.stop()


async def test_a_relay_that_was_stopped_may_run_again(shop, mq):
    """It sends what was written since, instead of returning at once as if all was done."""
    outbox, _ = shop
    relay = outbox.relay(mq, poll_interval_s=A_LONG_TIME_S)
    for what in ("tea", "cake"):
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0)
        await place(shop, what)
        await wait_until_empty(outbox)
        assert not running.done()
        await relay.stop()
        await relay.stop()
        assert running.done()
    assert [payload for _, payload in await sent(mq)] == ["tea", "cake"]


async def test_a_cancelled_relay_says_so(shop, mq):
    """Whoever awaits it is not told that it ended in good order; it may run again."""
    outbox, _ = shop
    relay = outbox.relay(mq, poll_interval_s=A_LONG_TIME_S)
    running = asyncio.create_task(relay.run())
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    running = asyncio.create_task(relay.run())
    await place(shop, "tea")
    await wait_until_empty(outbox)
    await relay.stop()
    await running


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "5", float("nan"), 10**30])
async def test_a_number_of_rows_that_makes_no_sense_is_refused(shop, mq, count):
    """0 would send nothing and say that nothing waits."""
    outbox, _ = shop
    with pytest.raises(InvalidParameter):
        await outbox.relay(mq).relay_once(count)
    with pytest.raises(InvalidParameter):
        await outbox.pending(count=count)


async def wait_until_sent(mq, count):
    async with asyncio.timeout(10):
        while await mq.stream("orders").length() < count:
            await asyncio.sleep(0.005)


async def wait_until_empty(outbox):
    async with asyncio.timeout(20):
        while await outbox.count():
            await asyncio.sleep(0.005)

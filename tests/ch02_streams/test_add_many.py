"""Adding many at once on a real server.

In order, within the limits, and each with its own outcome.
"""

import asyncio

import pytest

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    InvalidMessage,
    NotConnected,
    PartlyAdded,
    QueueClosed,
    QueueFull,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

LAST_ID = "18446744073709551615-18446744073709551615"
QUICK = ConnectionConfig(
    timeout_s=0.4, connect_timeout_s=0.4, backoff=Backoff(initial_s=0.005, max_s=0.02)
)


def texts(count):
    return [str(number) for number in range(count)]


async def test_many_are_added_in_their_order(server):
    """Their ids come back in that order.

    Payloads and fields as with `add`; none of them is no error.
    """
    async with MessageQueue(server.url) as mq:
        stream = mq.stream("orders")
        assert await stream.add_many([]) == []
        ids = await stream.add_many(
            part for part in (b"a", "晚", bytearray(b"c"), {"order": "17", "item": b"\xff"})
        )
        entries = await stream.range()
        assert [entry.id for entry in entries] == ids
        fields = [
            {"data": b"a"},
            {"data": "晚".encode()},
            {"data": b"c"},
            {"order": b"17", "item": b"\xff"},
        ]
        assert [entry.fields for entry in entries] == fields


async def test_one_that_cannot_be_added_stops_all_before_anything_is_sent(server):
    """InvalidMessage, wherever it stands."""
    async with MessageQueue(server.url, max_payload_bytes=10) as mq:
        stream = mq.stream("orders")
        for bad in (None, 7, {}, "x" * 11, {"a": 1}):
            with pytest.raises(InvalidMessage) as caught:
                await stream.add_many(["fine", bad])
            assert caught.value.definite
        assert await stream.length() == 0


@pytest.mark.parametrize(
    "limits",
    [ConnectionConfig(max_commands=8), ConnectionConfig(max_bytes=2_000)],
    ids=["commands", "bytes"],
)
async def test_more_than_the_limits_allow_waits_for_room(server, limits):
    """Also beside others who want the same connection; everybody's own order is kept."""
    async with MessageQueue(server.url, config=limits) as mq:
        stream, most = mq.stream("orders"), 0
        connection = mq._commands.connection
        send_many = connection.send_many

        def watched(commands):
            nonlocal most
            replies = send_many(commands)
            most = max(most, len(connection._waiting))
            return replies

        connection.send_many = watched
        singles = asyncio.gather(*(stream.add(f"one {number}") for number in range(100)))
        many = await asyncio.gather(
            *(stream.add_many([f"{who} {text}" for text in texts(300)]) for who in "ab")
        )
        await singles
        assert most <= limits.max_commands
        data = {entry.id: entry.data.decode() for entry in await stream.range()}
        assert len(data) == 700
        for who, ids in zip("ab", many, strict=True):
            assert [data[added] for added in ids] == [f"{who} {text}" for text in texts(300)]
            assert [added for added, text in data.items() if text.startswith(who)] == ids


async def test_what_the_server_refuses_is_told_one_by_one(server):
    """PartlyAdded: here the stream's ids are used up after two.

    Definite, because the server itself said no.
    """
    async with MessageQueue(server.url) as mq:
        stream = mq.stream("orders")
        await stream.add("x", id=LAST_ID[:-1] + "3")
        with pytest.raises(PartlyAdded, match=r"3 of 5 were not added: .*ID") as caught:
            await stream.add_many(texts(5))
        told = caught.value
        assert told.ids == [LAST_ID[:-1] + "4", LAST_ID, None, None, None]
        assert [type(error) for error in told.errors] == [type(None)] * 2 + [CommandRejected] * 3
        assert told.definite and told.__cause__ is told.errors[2]


async def test_a_server_that_does_not_answer_leaves_it_open_what_was_added(server):
    """What was written timed out and may be added, the rest had no room and is not.

    Later replies meet their commands.
    """
    limits = ConnectionConfig(timeout_s=0.4, max_commands=3, backoff=QUICK.backoff)
    async with MessageQueue(server.url, config=limits) as mq:
        stream = mq.stream("orders")
        assert await stream.length() == 0  # the layout of the keys was looked at
        server.pause()
        with pytest.raises(PartlyAdded) as caught:
            await stream.add_many(texts(5))
        server.resume()
        told = caught.value
        assert not told.definite and told.ids == [None] * 5
        assert all(isinstance(error, CommandTimeout | ConnectionLost) for error in told.errors[:3])
        assert all(isinstance(error, QueueFull | NotConnected) for error in told.errors[3:])
        await wait_until(lambda: mq.is_connected)
        added = await stream.add_many(["x", "y"])
        assert [entry.id for entry in await stream.range()][-2:] == added


async def test_a_line_that_breaks_tells_what_was_written_from_what_was_not(server):
    """Written: it may have been added.

    Within the loop turn of sending nothing has left: certainly not.
    """
    async with MessageQueue(server.url, config=QUICK) as mq:
        stream = mq.stream("orders")
        assert await stream.length() == 0  # the layout of the keys was looked at
        server.pause()
        adding = asyncio.create_task(stream.add_many(texts(5)))
        await asyncio.sleep(0.02)
        mq._commands.connection.abort(ConnectionLost("cut by the test"))
        with pytest.raises(PartlyAdded) as caught:
            await adding
        server.resume()
        assert not caught.value.definite
        assert all(isinstance(error, ConnectionLost) for error in caught.value.errors)
        await wait_until(lambda: mq.is_connected)

        connection = mq._commands.connection
        replies = connection.send_many([b"*1\r\n$4\r\nPING\r\n"] * 3)
        connection.connection_lost(None)
        assert [type(reply) for reply in await replies] == [NotConnected] * 3


async def test_room_that_does_not_come_back_keeps_what_was_added(server, monkeypatch):
    """The first ones have their ids, the others the reason; definite: each may be added again."""
    async with MessageQueue(server.url, config=ConnectionConfig(max_commands=3)) as mq:

        async def no_room():
            raise QueueFull("no room")

        monkeypatch.setattr(mq._commands, "acquire_slot", no_room)
        with pytest.raises(PartlyAdded, match="4 of 7") as caught:
            await mq.stream("orders").add_many(texts(7))
        monkeypatch.undo()
        told = caught.value
        assert [entry.id for entry in await mq.stream("orders").range()] == told.ids[:3]
        assert told.ids[3:] == [None] * 4 and told.definite


async def test_whoever_is_cancelled_leaves_the_others_their_own_replies(server):
    """The places in the line are used up by the answers."""
    async with MessageQueue(server.url) as mq:
        stream = mq.stream("orders")
        assert await stream.length() == 0  # the layout of the keys was looked at
        adding = [asyncio.create_task(stream.add_many(texts(50))) for _ in range(6)]
        await asyncio.sleep(0)
        for task in adding[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
        ids = [entry.id for entry in await stream.range()]
        assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
            True,
            False,
        ] * 3
        assert [added for outcome in outcomes[1::2] for added in outcome] == ids[50:100] + ids[
            150:200
        ] + ids[250:300]


async def test_a_closed_queue_refuses_with_its_own_name(server):
    """Nothing was written, so there is nothing to tell one by one. Closing waits for what was."""
    async with MessageQueue(server.url) as mq:
        stream = mq.stream("orders")
        assert await stream.length() == 0  # the layout of the keys was looked at
        adding = asyncio.create_task(stream.add_many(texts(100)))
        await asyncio.sleep(0)
        await mq.close()
        assert len(await adding) == 100
        with pytest.raises(QueueClosed):
            await stream.add_many(texts(2))


async def test_the_observer_sees_each_of_many_accepted_and_added_or_failed(server):
    """As with `add`."""
    trace = Trace()
    async with MessageQueue(server.url, name="alice", observer=trace) as mq:
        stream = mq.stream("orders")
        ids = await stream.add_many(["m1 tea", {"order": "m2"}])
        await stream.add("m3", id=LAST_ID)
        with pytest.raises(PartlyAdded):
            await stream.add_many(["m4"])
        await mq.close()
        with pytest.raises(QueueClosed):
            await stream.add_many(["m5"])
    kinds = {name: [event.kind for event in life] for name, life in trace.by_message().items()}
    good, bad = [EventKind.ACCEPTED, EventKind.ADDED], [EventKind.ACCEPTED, EventKind.FAILED]
    assert kinds == {"m1": good, "m2": good, "m3": good, "m4": bad, "m5": bad}
    assert [event.detail for event in trace.by_kind(EventKind.ADDED)][:2] == ids

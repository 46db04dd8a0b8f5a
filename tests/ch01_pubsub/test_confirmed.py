"""Confirmation: what a sender is told is true of the very message that it sent."""

import asyncio
import contextlib
import logging

import pytest

from mpim_lab.errors import InvalidMessage, NotConnected
from mpim_lab.mq.pubsub.confirmed import AckedPublisher, AckingSubscriber
from mpim_lab.mq.pubsub.queue import MessageQueue


@contextlib.asynccontextmanager
async def talk(server, handler, *, attempts=2, **options):
    """A sender to bob and bob, whose messages `handler` gets."""
    async with (
        MessageQueue(server.url, name="alice", **options) as alice,
        MessageQueue(server.url, name="bob") as bob,
        AckingSubscriber(bob, "bob", handler),
        AckedPublisher(alice, "bob", max_attempts=attempts, ack_timeout_s=1.0) as sender,
    ):
        yield sender


@pytest.mark.parametrize(
    "ids",
    [
        (b"order-2026-11-30-0000001", b"order-2026-11-30-0000002"),
        (b"invoice-2026-11-30-eu-0000001", b"invoice-2026-11-30-eu-0000002"),
        (b"x" * 10_000 + b"1", b"x" * 10_000 + b"2"),
        (b"\xff1", b"\xfe2"),
    ],
    ids=["24 characters", "29 characters", "10,001 bytes", "not UTF-8"],
)
async def test_ids_that_begin_alike_are_not_confirmed_for_each_other(server, caplog, ids):
    """The handler raises for the second one: its sender is not told that it was delivered."""
    caplog.set_level(logging.CRITICAL)

    async def handle(message):
        if message.payload.startswith(ids[1]):
            raise ValueError

    async with talk(server, handle) as sender:
        told = await asyncio.gather(*(sender.send("bob", each + b" hello") for each in ids))
    assert told == ["delivered", "unconfirmed"]


async def test_two_that_send_the_same_message_at_once_are_both_told(server):
    """It is one message; whoever is told first takes nothing from the other."""

    async def handle(message):
        await asyncio.sleep(0)

    async with talk(server, handle) as sender:
        assert (
            await asyncio.gather(*(sender.send("bob", b"m1 hi") for _ in range(3)))
            == ["delivered"] * 3
        )
        assert sender._unacked == {}


@pytest.mark.parametrize("payload", [b"", b" hello"])
async def test_a_message_without_an_id_is_refused(server, payload):
    """Nothing could confirm it."""

    async def handle(message):
        raise AssertionError

    async with talk(server, handle) as sender:
        with pytest.raises(InvalidMessage, match="begins with its id"):
            await sender.send("bob", payload)


async def test_a_sender_that_is_not_open_sends_nothing(one_server):
    """Nobody would hear a confirmation: the message would be handled, and "unconfirmed"."""
    async with MessageQueue(one_server.url) as mq:
        heard = []
        await mq.subscribe("user:bob", heard.append)
        sender = AckedPublisher(mq, "bob", max_attempts=1, ack_timeout_s=0.1)
        with pytest.raises(NotConnected, match="not open"):
            await sender.send("bob", b"m1 hi")
        async with sender:
            pass
        with pytest.raises(NotConnected, match="not open"):
            await sender.send("bob", b"m1 hi")
        await mq.drain()
        assert heard == []


async def test_a_text_is_confirmed_as_bytes_are_and_anything_else_is_refused(one_server):
    """As everywhere else where something is sent."""
    async with MessageQueue(one_server.url) as mq, AckedPublisher(mq, "bob") as sender:

        async def handler(message):
            pass

        async with AckingSubscriber(mq, "bob", handler):
            assert await sender.send("bob", "m1 grüß dich") == "delivered"
        for payload in (None, 7, ["m1 hi"]):
            with pytest.raises(InvalidMessage):
                await sender.send("bob", payload)


async def test_a_plain_handler_is_confirmed_too(one_server):
    """What it did counts, and not whether there was something to await."""
    async with MessageQueue(one_server.url) as mq, AckedPublisher(mq, "bob") as sender:
        handled = []
        async with AckingSubscriber(mq, "bob", lambda message: handled.append(message.payload)):
            assert await sender.send("bob", b"m1 hi") == "delivered"
        assert handled == [b"m1 hi"]

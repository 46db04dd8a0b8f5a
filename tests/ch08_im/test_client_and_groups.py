"""Clients whose groups change under them, who share ids, come back to much, or leave midway."""

import asyncio

import pytest

from mpim_lab.errors import GatewayClosed, InvalidParameter, NotAMember, NotConnected
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway import handshake, session
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.frames import Sync
from mpim_lab.im.protocol.requests import SendMessageRequest
from mpim_lab.mq.connection.encoding import new_message_id
from tests.raw_clients import system_of_its_own as system
from tests.support import wait_until


async def numbers(client, count, within_s=10.0):
    """The numbers of the next so many messages."""
    async with asyncio.timeout(within_s):
        return [(await client.receive()).sequence for _ in range(count)]


def syncs_counted(gateway):
    """A list of the conversations that clients ask this gateway about, from now on."""
    asked, answers = [], gateway._frame_handler._handlers
    answer = answers[Sync]

    async def count(session, frame):
        asked.append(frame.conversation)
        await answer(session, frame)

    answers[Sync] = count
    return asked


async def test_somebody_elses_message_with_the_id_of_mine_is_read():
    """An id is its sender's; mine may have been refused, or sent twice."""
    async with system() as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        with pytest.raises(NotAMember):
            await bob.create_group("tea")
            await alice.send_to_group("tea", "let me in", id="order-1")
        for _ in range(2):
            await alice.send("carol", "twice", id="5")
        for own in ("order-1", "5"):
            await bob.send("alice", "yours", id=own)
        assert await numbers(alice, 2) == [1, 2]


async def test_a_group_message_numbered_after_a_join_is_pushed_to_who_joined():
    """Although its sender's gateway had read the members before."""
    async with (
        system(2) as mpim,
        mpim.client("bob", at=["gw-1"]) as bob,
        mpim.client("alice", at=["gw-2"]) as alice,
    ):
        await bob.create_group("tea")
        ledger, has_joined = mpim.gateways["gw-1"].services.messages.log, asyncio.Event()
        append = ledger.append

        async def late(*given, **named):
            await has_joined.wait()
            return await append(*given, **named)

        ledger.append = late
        sending = asyncio.create_task(bob.send_to_group("tea", "hello"))
        await asyncio.sleep(0.1)
        await alice.join("tea")
        has_joined.set()
        assert (await sending).sequence == 1
        assert await numbers(alice, 1) == [1]


async def test_whoever_leaves_with_messages_unread_reads_them_once_and_asks_for_nothing_more():
    """Also after joining again."""
    async with (
        system(
            gateway_config=GatewayConfig(ack_timeout_s=0.1, maintenance_interval_s=0.05)
        ) as mpim,
        mpim.client("alice") as alice,
        mpim.client("bob") as bob,
    ):
        asked = syncs_counted(mpim.gateways["gw-1"])
        await bob.create_group("tea", "alice")
        for number in range(5):
            await bob.send_to_group("tea", f"m{number}")
        await wait_until(lambda: len(alice._inbox._ready) == 5)
        await alice.leave("tea")
        asked.clear()
        await asyncio.sleep(0.5)
        assert asked == []
        await alice.join("tea")
        await bob.send_to_group("tea", "new")
        assert await numbers(alice, 6) == [1, 2, 3, 4, 5, 6]


async def test_whoever_is_no_member_any_more_asks_once():
    """She left through another device, and this one is told so by the answer."""
    async with system() as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        await bob.create_group("tea", "alice")
        await bob.send_to_group("tea", "one")
        assert await numbers(alice, 1) == [1]
        await mpim.services.groups.leave("tea", "alice")
        asked = syncs_counted(mpim.gateways["gw-1"])
        alice._inbox._sequencer("#tea").advance_last_known(9)
        await wait_until(lambda: asked)
        await asyncio.sleep(2.5)  # longer than a reader's patience
        assert asked == ["#tea"]


async def test_a_join_that_stopped_halfway_does_not_bring_the_past_along(monkeypatch):
    """The group knows her, and where she begins could not be noted.

    She begins where it was when she asked first.
    """
    async with system() as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        await bob.create_group("tea")
        for number in range(5):
            await bob.send_to_group("tea", f"m{number}")
        join, times = mpim.services.groups.join, []

        async def once_without_an_answer(group, uid):
            members = await join(group, uid)
            times.append(uid)
            if len(times) == 1:
                raise NotConnected("the server is away")
            return members

        monkeypatch.setattr(mpim.gateways["gw-1"].services.groups, "join", once_without_an_answer)
        assert await alice.join("tea") == ("alice", "bob")
        await bob.send_to_group("tea", "new")
        assert len(times) == 2
        assert await numbers(alice, 1) == [6]


async def test_whoever_comes_back_to_many_conversations_is_not_refused_for_it():
    """A few are asked about at a time, and fewer once it is too fast."""
    config = GatewayConfig(rate_per_s=100.0, burst=20, max_violations=40)
    async with system(gateway_config=config) as mpim:
        await asyncio.gather(
            *(
                mpim.services.messages.send_message(
                    SendMessageRequest(f"m{n}", f"u{n}", "alice", "hi")
                )
                for n in range(150)
            )
        )
        async with mpim.client("alice") as alice:
            assert await numbers(alice, 150, within_s=20.0) == [1] * 150
            assert mpim.gateways["gw-1"].metrics.welcomed == 1


async def test_conversations_that_the_welcome_left_out_are_not_taken_for_lost(monkeypatch):
    """Of very many, only those with news are named."""
    monkeypatch.setattr(handshake, "MAX_CONVERSATIONS", 3)
    positions = {}
    async with system() as mpim, mpim.client("bob") as bob:
        async with mpim.client("alice", positions=positions) as alice:
            for number in range(5):
                await mpim.services.messages.send_message(
                    SendMessageRequest(f"m{number}", f"u{number}", "alice", "hi")
                )
            assert await numbers(alice, 5) == [1] * 5
        async with mpim.client("alice", positions=positions) as alice:
            await bob.send("alice", "and you?")
            assert await numbers(alice, 1) == [1]
            assert alice.missing == [] and set(positions.values()) == {1}


async def test_news_in_more_conversations_than_a_welcome_names_are_all_read(monkeypatch):
    """Although nobody writes in them any more.

    The rest is told of right after the welcome, in several frames.
    """
    monkeypatch.setattr(handshake, "MAX_CONVERSATIONS", 3)
    monkeypatch.setattr(session, "_MAX_CONVERSATIONS", 2)
    async with system() as mpim:
        for number in range(12):
            for _ in range(2):
                request = SendMessageRequest(new_message_id(), f"u{number}", "alice", "hi")
                await mpim.services.messages.send_message(request)
        async with mpim.client("alice") as alice:
            assert sorted(await numbers(alice, 24)) == [1] * 12 + [2] * 12


async def test_another_device_reads_a_group_from_where_one_has_joined():
    """It is not told of the joining.

    By the first message it learns that there is something to ask, and from where on.
    """
    async with system(gateways=2) as mpim, mpim.client("alice") as alice:
        await alice.create_group("tea", "carol")
        for number in range(5):
            await alice.send_to_group("tea", f"before {number}")
        laptop, phone = (
            mpim.client("bob", at=["gw-1"]),
            mpim.client("bob", at=["gw-2"], device="phone"),
        )
        async with laptop, phone:
            await laptop.join("tea")
            for number in range(3):
                await alice.send_to_group("tea", f"after {number}")
            for device in (laptop, phone):
                assert await numbers(device, 3) == [6, 7, 8]
            assert laptop.missing == phone.missing == []
            await phone.send_to_group("tea", "me too")
            assert (await laptop.receive()).text == "me too"
            await alice.send_to_group("tea", "good")
            assert await numbers(phone, 1) == await numbers(laptop, 1) == [10]


async def test_what_was_read_before_is_not_read_again_where_the_welcome_left_it_out(monkeypatch):
    """A new device of somebody with very many conversations begins where she has acknowledged."""
    monkeypatch.setattr(handshake, "MAX_CONVERSATIONS", 1)
    async with system() as mpim, mpim.client("bob") as bob, mpim.client("carol") as carol:
        async with mpim.client("alice") as alice:
            for sender in (bob, bob, carol):
                await sender.send("alice", "hi")
            assert sorted(await numbers(alice, 3)) == [1, 1, 2]
        async with asyncio.timeout(5):
            while await mpim.services.messages.log.read_positions("alice") != {
                "alice:bob": 2,
                "alice:carol": 1,
            }:
                await asyncio.sleep(0.01)
        await carol.send("alice", "are you there?")  # so that this one is named
        async with mpim.client("alice", device="new") as alice:
            assert await numbers(alice, 1) == [2]
            await bob.send("alice", "and you?")
            assert await numbers(alice, 1) == [3]
            assert alice.missing == []


async def test_watching_begins_when_the_server_is_back(monkeypatch):
    """What could not be subscribed is subscribed later, and the status told."""
    seen = []
    async with (
        system() as mpim,
        mpim.client(
            "alice", on_presence=lambda each: seen.append((each.uid, each.status))
        ) as alice,
    ):
        gateway = mpim.gateways["gw-1"]
        monkeypatch.setattr(gateway.maintenance, "_presence_interval_s", 0.1)
        statuses, times = gateway.services.presence.statuses, []

        async def away_at_first(uids):
            times.append(uids)
            if len(times) == 1:
                raise NotConnected("the server is away")
            return await statuses(uids)

        monkeypatch.setattr(gateway.services.presence, "statuses", away_at_first)
        await alice.watch("bob")
        await wait_until(lambda: seen == [("bob", "offline")])
        async with mpim.client("bob"):
            await wait_until(lambda: seen[-1] == ("bob", "online"))


async def test_closing_ends_whatever_waits_for_its_turn_at_once():
    """The same message sent ten times at once, by a client whose gateway does not answer."""
    async with system() as mpim:
        alice = mpim.client("alice", response_timeout_s=5.0)
        async with alice:
            mpim.gateways["gw-1"]._frame_handler.fast_sender.try_send = lambda session, frame: True
            sends = [asyncio.create_task(alice.send("bob", "hi", id="one")) for _ in range(10)]
            await asyncio.sleep(0.1)
        async with asyncio.timeout(2):
            assert all(
                isinstance(error, GatewayClosed)
                for error in await asyncio.gather(*sends, return_exceptions=True)
            )


@pytest.mark.parametrize(
    "bad",
    [
        {"max_buffered": 0},
        {"max_buffered": -1},
        {"response_timeout_s": 0},
        {"response_timeout_s": -1.0},
        {"timeout_s": 0},
    ],
)
def test_numbers_that_would_read_or_send_nothing_are_refused(bad):
    """At once, and not by silence."""
    with pytest.raises(InvalidParameter, match=next(iter(bad))):
        Client("ws://127.0.0.1:1/ws", lambda: "token", **bad)


async def test_names_of_gateways_and_users_are_checked_at_once():
    """InvalidParameter, before anybody waits for an answer.

    A gateway that runs is not started again.
    """
    async with system() as mpim:
        for refused in (
            lambda: mpim.client("a b"),
            lambda: mpim.client(""),
            lambda: mpim.client("alice", device="a:b"),
            lambda: mpim.client("alice", at=["gw-9"]),
        ):
            with pytest.raises(InvalidParameter):
                refused()
        for refused in (mpim.kill, mpim.stop):
            with pytest.raises(
                InvalidParameter, match=r"no gateway 'gw-9' is running; there are: gw-1"
            ):
                await refused("gw-9")  # type: ignore[call-arg]
        gateway = mpim.gateways["gw-1"]
        with pytest.raises(InvalidParameter, match="running already"):
            await mpim.start("gw-1")
        assert mpim.gateways == {"gw-1": gateway}
        async with mpim.client("alice", at="gw-1") as alice:
            assert alice.gateway == "gw-1"

"""The client.

What it sends arrives once and in order, whatever happens to gateways, lines and itself.
"""

import asyncio
import contextlib
import json

import pytest
from websockets.asyncio.server import serve as serve_websockets

from mpim_lab.errors import (
    CommandRejected,
    GatewayClosed,
    GroupExists,
    InvalidMessage,
    NoSuchGroup,
    NotAMember,
    TooFast,
    Unconfirmed,
)
from mpim_lab.events import now
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.frames import SyncHint, Welcome, decode_client, encode, error_frame
from mpim_lab.im.protocol.requests import ChatMessage, SendMessageRequest
from mpim_lab.im.system import ImSystem
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.encoding import new_message_id
from tests.raw_clients import system_of_its_own as system
from tests.raw_clients import system_options
from tests.support import wait_until


@pytest.fixture
async def mpim(server):
    """Two gateways over one server."""
    async with ImSystem(server.url, gateways=2, **system_options()) as running:
        yield running


async def texts(client, count, within_s=20.0):
    """The next so many messages."""
    async with asyncio.timeout(within_s):
        return [(await client.receive()).text for _ in range(count)]


async def nothing_comes(client, for_s=0.5):
    """Whether nothing is handed over for a while."""
    receiving = asyncio.create_task(client.receive())
    await asyncio.wait([receiving], timeout=for_s)
    receiving.cancel()
    return not receiving.done()


# Errors


async def test_errors_have_the_class_that_says_what_is_wrong(mpim):
    """What the services raise, the client raises, at once and not after its time-out."""
    async with asyncio.timeout(5), mpim.client("alice") as alice, mpim.client("eve") as eve:
        await alice.create_group("tea")
        for work, error in (
            (eve.create_group("tea"), GroupExists),
            (eve.join("none"), NoSuchGroup),
            (eve.leave("none"), NoSuchGroup),
            (eve.send_to_group("none", "hi"), NoSuchGroup),
            (eve.send_to_group("tea", "hi"), NotAMember),
        ):
            with pytest.raises(error) as raised:
                await work
            assert raised.value.definite


@pytest.mark.parametrize("text", ["", "x" * 4_001, "\x01" * 4_000, "\ud800", 7, None], ids=repr)
async def test_what_no_gateway_would_take_is_refused_before_it_is_sent(text):
    """Empty, too long, too long once it is JSON, no text at all: at once; the line stays."""
    async with asyncio.timeout(5), system() as mpim, mpim.client("alice") as alice:
        with pytest.raises(InvalidMessage):
            await alice.send("bob", text)
        assert (await alice.send("bob", "fine")).status == "stored"
        assert mpim.gateways["gw-1"].metrics.welcomed == 1


async def test_names_that_are_none_are_refused_before_they_are_sent():
    """Users, groups, members, ids, and more users than may be watched."""
    async with asyncio.timeout(5), system() as mpim, mpim.client("alice") as alice:
        for work in (
            alice.send("bob eve", "hi"),
            alice.send_to_group("", "hi"),
            alice.send("bob", "hi", id="m 1"),
            alice.create_group("tea pot"),
            alice.create_group("tea", "b b"),
            alice.join(""),
            alice.watch(*(f"u{number}" for number in range(201))),
        ):
            with pytest.raises(InvalidMessage):
                await work


async def test_two_group_changes_at_once_each_get_their_own_answer():
    """Two groups, and the same one twice, which is harmless.

    Nobody gets the other's answer or waits for ever.
    """
    async with asyncio.timeout(10), system() as mpim, mpim.client("alice") as alice:
        made = await asyncio.gather(
            alice.create_group("tea"),
            alice.create_group("tea"),
            alice.create_group("coffee"),
            alice.join("none"),
            return_exceptions=True,
        )
        kinds = sorted(type(each).__name__ for each in made)
        assert kinds == ["NoSuchGroup", "tuple", "tuple", "tuple"]


async def test_an_error_of_something_else_does_not_end_a_group_change():
    """A pull that fails is not the answer to a create that is under way."""
    async with system() as mpim, mpim.client("alice") as alice:
        alice._requests._pending["group tea"] = (None, asyncio.get_running_loop().create_future())
        await alice.connection.send({"t": "sync", "conversation": "#none", "after": 0})
        await asyncio.sleep(0.2)
        assert not alice._requests._pending.pop("group tea")[1].done()


# Time


async def test_nobody_answers_and_send_says_so_in_the_end():
    """Unconfirmed after `timeout_s`: it is not definite; the message may be kept."""
    async with (
        system() as mpim,
        mpim.client("alice", timeout_s=1.0, response_timeout_s=0.3) as alice,
    ):
        await mpim.stop("gw-1")
        began = now()
        with pytest.raises(Unconfirmed) as raised:
            await alice.send("bob", "hi")
        assert 0.9 < now() - began < 2.0 and not raised.value.definite


async def test_without_a_gateway_nobody_comes_in():
    """GatewayClosed, which says why, after `timeout_s`."""
    client = Client("ws://127.0.0.1:9/ws", lambda: "token", timeout_s=0.5)
    with pytest.raises(GatewayClosed, match=r"refused|Connect call failed"):
        async with client:
            pass


async def test_a_token_that_cannot_be_made_is_no_reason_to_hang():
    """What makes tokens fails twice: then the client comes in all the same."""
    async with system() as mpim:
        failures = iter([RuntimeError("the login server is down"), ValueError("still"), None])

        def token():
            if (error := next(failures)) is not None:
                raise error
            return mpim.tokens.issue("alice")

        async with asyncio.timeout(5), Client(mpim.addresses, token) as alice:
            assert alice.gateway == "gw-1"


async def test_closing_while_sending_ends_the_wait():
    """Whoever waits gets GatewayClosed, at once."""
    async with system() as mpim:
        alice = await mpim.client("alice").__aenter__()
        await mpim.stop("gw-1")
        sending = [asyncio.create_task(alice.send("bob", f"{number}")) for number in range(100)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(3):
            await alice.close()
            results = await asyncio.gather(*sending, return_exceptions=True)
        assert {type(each) for each in results} == {GatewayClosed}
        with pytest.raises(GatewayClosed):
            await alice.receive()
        with pytest.raises(GatewayClosed):
            await alice.send("bob", "too late")


async def test_what_was_not_answered_is_sent_again_under_the_same_id():
    """A gateway that takes messages and does not answer, twice: the third time it does.

    There was one id.
    """
    heard = []

    async def gateway(ws):
        await ws.recv()
        await ws.send(encode(Welcome("alice", "mute", {})), text=True)
        async for raw in ws:
            frame = decode_client(raw)
            if hasattr(frame, "text"):
                heard.append((frame.id, frame.text))
                if len(heard) == 2:
                    await ws.close()
                elif len(heard) == 3:
                    answer = {
                        "t": "sent",
                        "id": frame.id,
                        "conversation": "alice:bob",
                        "sequence": 1,
                        "told": "known",
                    }
                    await ws.send(json.dumps(answer))

    async with serve_websockets(gateway, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with Client(f"ws://127.0.0.1:{port}/", lambda: "x", response_timeout_s=0.3) as alice:
            assert (await alice.send("bob", "hi", id="the-id")).status == "known"
    assert heard == [("the-id", "hi")] * 3


async def test_a_server_that_is_still_loading_is_asked_again():
    """It says so by an error; the message is sent again, with the same id.

    Any other refusal is the caller's to know.
    """
    heard = []

    async def gateway(ws):
        await ws.recv()
        await ws.send(encode(Welcome("alice", "fake", {})), text=True)
        async for raw in ws:
            frame = decode_client(raw)
            if hasattr(frame, "text"):
                heard.append(frame.id)
                text = "LOADING the dataset in memory" if len(heard) == 1 else "WRONGTYPE"
                await ws.send(encode(error_frame(CommandRejected(text), frame.id)), text=True)

    async with serve_websockets(gateway, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with Client(f"ws://127.0.0.1:{port}/", lambda: "x") as alice:
            with pytest.raises(CommandRejected, match="WRONGTYPE"):
                await alice.send("bob", "hi", id="the-id")
    assert heard == ["the-id", "the-id"]


async def test_a_gateway_that_hears_and_says_nothing_is_left_for_another():
    """The line is half open.

    Nothing was heard for twice `response_timeout_s` after a send, long before `silent_s`.
    """

    async def dead_gateway(ws):
        await ws.recv()
        await ws.send(encode(Welcome("alice", "dead", {})), text=True)
        await ws.wait_closed()

    async with (
        system() as mpim,
        serve_websockets(dead_gateway, "127.0.0.1", 0, close_timeout=0.1) as server,
    ):
        dead = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
        token = lambda: mpim.tokens.issue("alice")  # noqa: E731
        async with Client(
            [dead, *mpim.addresses], token, response_timeout_s=0.2, timeout_s=10
        ) as alice:
            assert alice.gateway == "dead"
            began = now()
            assert (await alice.send("bob", "hi")).status == "stored"
            assert now() - began < 3 and alice.gateway == "gw-1"


async def test_a_mistake_in_the_applications_callback_does_not_hang_up():
    """It is logged; messages go on."""

    def fail(frame):
        raise RuntimeError("a mistake")

    async with system() as mpim, mpim.client("alice", on_broadcast=fail, on_presence=fail) as alice:
        await alice.watch("bob")
        await mpim.broadcast("hello")
        async with mpim.client("bob") as bob:
            await bob.send("alice", "still there?")
        assert await texts(alice, 1) == ["still there?"]
        assert mpim.gateways["gw-1"].metrics.welcomed == 2


async def test_nonsense_from_a_gateway_ends_that_line_and_not_the_client():
    """It connects again, at the next one."""

    async def mad_gateway(ws):
        await ws.recv()
        await ws.send(encode(Welcome("alice", "mad", {})), text=True)
        await asyncio.sleep(0.05)
        await ws.send(b"\xfd\x00\xff")
        await ws.wait_closed()

    async with (
        system() as mpim,
        serve_websockets(mad_gateway, "127.0.0.1", 0, close_timeout=0.1) as server,
    ):
        mad = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"
        async with Client([mad, *mpim.addresses], lambda: mpim.tokens.issue("alice")) as alice:
            await wait_until(lambda: alice.gateway == "gw-1")


async def test_two_clients_that_say_they_are_the_same_device_do_not_fight_without_pause():
    """Each throws the other out; they wait longer and longer before they come again."""
    async with system() as mpim, mpim.client("alice"), mpim.client("alice"):
        await asyncio.sleep(3)
        assert mpim.gateways["gw-1"].metrics.welcomed < 40


# Many at once


async def test_many_concurrent_senders_all_arrive_once():
    """Eight clients, 50 messages at the same time from each."""
    async with system(gateways=2) as mpim, contextlib.AsyncExitStack() as stack:
        bob = await stack.enter_async_context(mpim.client("bob"))
        senders = [
            await stack.enter_async_context(mpim.client(f"s{number}")) for number in range(8)
        ]
        await asyncio.gather(
            *(each.send("bob", f"{each.name} {n}") for each in senders for n in range(50))
        )
        got = await texts(bob, 400)
        assert sorted(got) == sorted(f"s{number} {n}" for number in range(8) for n in range(50))
        assert await nothing_comes(bob)


async def test_more_than_the_rate_allows_is_sent_as_fast_as_it_allows():
    """A client waits after TooFast instead of being thrown out; all arrive once."""
    config = GatewayConfig(rate_per_s=200, burst=50, max_violations=60)
    async with (
        system(gateway_config=config) as mpim,
        mpim.client("alice") as alice,
        mpim.client("bob") as bob,
    ):
        await asyncio.gather(*(alice.send("bob", f"{number}") for number in range(600)))
        assert sorted(map(int, await texts(bob, 600))) == list(range(600))
        assert mpim.gateways["gw-1"].metrics.welcomed == 2


async def test_what_stays_too_fast_is_told_as_too_fast():
    """A definite error: nothing was done."""
    config = GatewayConfig(rate_per_s=0.1, burst=1)
    async with system(gateway_config=config) as mpim, mpim.client("alice", timeout_s=2.5) as alice:
        await alice.send("bob", "one")
        with pytest.raises(TooFast) as raised:
            await alice.send("bob", "two")
        assert raised.value.definite


async def test_a_thousand_of_ones_own_messages_behind_an_unread_one_are_passed():
    """Own messages are not handed over; passing them does not go deeper with each."""
    config = GatewayConfig(rate_per_s=10_000, burst=10_000)
    async with (
        system(gateway_config=config) as mpim,
        mpim.client("alice") as alice,
        mpim.client("bob") as bob,
    ):
        await bob.send("alice", "first")
        await asyncio.gather(*(alice.send("bob", f"{number}") for number in range(990)))
        await asyncio.sleep(0.3)
        assert await texts(alice, 1) == ["first"]
        await bob.send("alice", "last")
        assert await texts(alice, 1) == ["last"]
        assert alice.positions["alice:bob"] == 992


# Positions


async def test_a_new_client_with_the_same_positions_goes_on_exactly_there(mpim):
    """Nothing twice, nothing left out, also when it has read more than the server was told."""
    positions = {}
    async with mpim.client("alice") as alice:
        for number in range(20):
            await alice.send("bob", f"{number}")
        for begin in range(0, 20, 5):
            bob = await mpim.client("bob", positions=positions, device=f"d{begin}").__aenter__()
            assert await texts(bob, 5) == [f"{number}" for number in range(begin, begin + 5)]
            await bob.abort()
        assert positions == {"alice:bob": 20}
        async with mpim.client("bob", positions=positions) as bob:
            assert await nothing_comes(bob, 0.3)


async def test_whoever_dies_with_a_message_in_hand_gets_it_again():
    """In `messages` a message counts as read when the next is asked for.

    The position says so before the effects are kept.
    """
    async with system() as mpim, mpim.client("alice") as alice:
        for number in range(4):
            await alice.send("bob", f"{number}")
        kept, positions = [], {}
        bob = await mpim.client("bob", positions=positions).__aenter__()
        async for message in bob.messages():
            if message.text == "2":
                break  # it dies with this one in hand: no effect was kept
            kept.append(message.text)
        await bob.abort()
        assert positions == {"alice:bob": 2} and kept == ["0", "1"]
        async with mpim.client("bob", positions=positions) as bob:
            assert await texts(bob, 2) == ["2", "3"]


async def test_nothing_is_handed_over_twice_to_a_reader_that_flaps():
    """Its line is broken again and again while messages come."""
    async with system(gateways=2) as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:

        async def send():
            for number in range(200):
                await alice.send("bob", f"{number}")
                await asyncio.sleep(0.005)

        sending = asyncio.create_task(send())
        for _ in range(8):
            await asyncio.sleep(0.15)
            if bob.connection._ws is not None:
                bob.connection._ws.transport.abort()
        await sending
        assert await texts(bob, 200) == [f"{number}" for number in range(200)]
        assert await nothing_comes(bob)


async def test_a_slow_application_gets_everything_in_order_though_little_is_read_ahead():
    """With `limit` 5, pushes that find no room are let pass, and pulled later."""
    async with (
        system() as mpim,
        mpim.client("alice") as alice,
        mpim.client("bob", max_buffered=5) as bob,
    ):
        for number in range(150):
            await alice.send("bob", f"{number}")
        assert len(bob._inbox._ready) < 200
        assert await texts(bob, 150) == [f"{number}" for number in range(150)]
        assert await nothing_comes(bob, 0.3)


# Groups


async def test_whoever_joins_reads_from_then_on_and_after_leaving_and_joining_again_too(mpim):
    """Not what was written before, and not what was written in between."""
    async with mpim.client("alice") as alice, mpim.client("bob") as bob:
        await alice.create_group("tea")
        await alice.send_to_group("tea", "before")
        await bob.join("tea")
        await alice.send_to_group("tea", "one")
        assert await texts(bob, 1) == ["one"]
        await bob.leave("tea")
        await alice.send_to_group("tea", "in between")
        await bob.join("tea")
        await alice.send_to_group("tea", "two")
        assert await texts(bob, 1) == ["two"]
        assert bob.missing == [] and await nothing_comes(bob, 0.3)


async def test_a_member_can_ask_who_is_in_a_group_and_reads_on_where_she_was(mpim):
    """Nobody else can.

    A second device of hers that has not heard of the group begins where she is.
    """
    async with (
        mpim.client("alice") as alice,
        mpim.client("bob") as bob,
        mpim.client("bob", device="phone") as phone,
    ):
        await alice.create_group("tea")
        await alice.send_to_group("tea", "before")
        with pytest.raises(NotAMember):
            await bob.members("tea")
        await bob.join("tea")
        assert (
            await bob.members("tea")
            == await phone.members("tea")
            == await alice.members("tea")
            == ("alice", "bob")
        )
        await alice.send_to_group("tea", "one")
        assert await texts(bob, 1) == await texts(phone, 1) == ["one"]
        await alice.leave("tea")
        assert await bob.members("tea") == ("bob",)
        with pytest.raises(NoSuchGroup):
            await bob.members("coffee")


async def test_a_message_that_comes_before_the_answer_to_join_does_not_bring_the_past_along():
    """Where a group begins is said by the answer."""
    async with (
        system(
            gateway_config=GatewayConfig(ack_timeout_s=0.2, maintenance_interval_s=0.05)
        ) as mpim,
        mpim.client("alice") as alice,
        mpim.client("bob") as bob,
    ):
        await alice.create_group("tea")
        await alice.send_to_group("tea", "before")
        with bob._inbox.joining("#tea"):
            bob._on_frame(ChatMessage("#tea", 2, "early", "alice", "early"))
        await bob.join("tea")
        await alice.send_to_group("tea", "two")
        assert await texts(bob, 1) == ["two"]


async def test_after_leaving_nothing_is_asked_of_a_group_any_more():
    """No pulls that can only be refused."""
    async with system() as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        await alice.create_group("tea", "bob")
        await alice.send_to_group("tea", "hi")
        assert await texts(bob, 1) == ["hi"]
        bob._inbox._sequencers["#tea"].advance_last_known(99)
        await bob.leave("tea")
        await asyncio.sleep(0.2)  # the last acknowledgement
        received = mpim.gateways["gw-1"].metrics.received
        await asyncio.sleep(2.5)
        assert mpim.gateways["gw-1"].metrics.received == received


# After the server has lost what it had


async def test_a_server_that_lost_everything_is_noticed_after_a_reconnect():
    """What was lost is told as missing, once; new messages are handed over."""
    async with (
        EmbeddedServer() as server,
        ImSystem(server.url, gateways=1, **system_options()) as mpim,
        mpim.client("alice") as alice,
        mpim.client("bob") as bob,
    ):
        for number in range(5):
            await alice.send("bob", f"{number}")
        assert await texts(bob, 5) == list("01234")
        server.kill()
        await server.start()
        await wait_until(lambda: mpim.gateways["gw-1"].is_healthy())
        for each in (alice, bob):
            if each.connection._ws is not None:
                each.connection._ws.transport.abort()
        await asyncio.sleep(0.5)
        await alice.send("bob", "new")
        assert await texts(bob, 1) == ["new"]


async def test_being_told_of_more_than_there_is_does_not_make_a_client_ask_without_pause():
    """A `behind` that is wrong costs a pull now and then, and not a loop."""
    async with system() as mpim, mpim.client("alice") as alice:
        await mpim.services.messages.send_message(
            SendMessageRequest(new_message_id(), "bob", "alice", "hi")
        )
        assert await texts(alice, 1) == ["hi"]
        received = mpim.gateways["gw-1"].metrics.received
        alice._on_frame(SyncHint({"alice:bob": 10}))
        await asyncio.sleep(1)
        assert mpim.gateways["gw-1"].metrics.received - received < 10

"""The gateway: what each frame of `protocol/frames.py` does, told over real connections."""

import asyncio
import contextlib
import time

import pytest

from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.frames import decode_client
from mpim_lab.im.protocol.requests import SendMessageRequest
from mpim_lab.im.services.tokens import TokenService
from mpim_lab.im.system import ImSystem
from mpim_lab.mq.connection.encoding import new_message_id
from tests.raw_clients import SECRET, RawClient, system_options
from tests.support import wait_until


@pytest.fixture
async def mpim(server):
    """Two gateways over one server."""
    async with ImSystem(server.url, gateways=2, **system_options()) as running:
        yield running


def url_of(mpim, number=1):
    return mpim.gateways[f"gw-{number}"].url


def figures_of(mpim, number=1):
    return mpim.gateways[f"gw-{number}"].metrics


@contextlib.asynccontextmanager
async def connected(mpim, count):
    """So many raw clients, at one gateway and the other in turn."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(RawClient(url_of(mpim, n % 2 + 1)))
            for n in range(count)
        ]
        for number, raw in enumerate(clients):
            await raw.hello(f"user-{number}")
        yield clients


# Hello


async def test_hello_with_a_good_token_is_answered_by_welcome(mpim):
    """It says who the client is, where, and how far her conversations are."""
    async with RawClient(url_of(mpim)) as alice:
        welcome = await alice.hello("alice")
    assert welcome == {
        "t": "welcome",
        "uid": "alice",
        "gateway": "gw-1",
        "conversations": {},
        "ordered": True,
        "silent_s": 60.0,
        "whole": True,
    }
    assert figures_of(mpim).welcomed == 1


@pytest.mark.parametrize(
    "token",
    [
        "",
        "not a token",
        TokenService("quite another secret of more than thirty-two characters").issue("alice"),
        TokenService(SECRET, clock=lambda: time.time() - 3600).issue("alice"),
        TokenService(SECRET).issue("alice")[:-4] + "AAAA",
        # "alg": "none", no signature
        "eyJhbGciOiJub25lIn0."
        "eyJzdWIiOiJhbGljZSIsImF1ZCI6Im1waW0iLCJqdGkiOiJ4IiwiZXhwIjo0MTAyNDQ0ODAwfQ.",
    ],
    ids=["empty", "garbage", "forged", "expired", "broken signature", "no signature"],
)
async def test_a_client_with_a_bad_token_is_told_so_and_sent_away(mpim, token):
    """An error frame, close code 1008, and the figures count it; nobody is let in."""
    async with RawClient(url_of(mpim)) as raw:
        assert (await raw.hello("alice", token=token))["error"] == "InvalidToken"
        assert (await raw.ended())[0] == 1008
    assert figures_of(mpim).refused == 1 and figures_of(mpim).welcomed == 0


async def test_a_token_that_was_used_is_refused_at_every_gateway(mpim):
    """Replayed at the other gateway while the first connection lives, and after it."""
    token = TokenService(SECRET).issue("alice")
    async with RawClient(url_of(mpim, 1)) as first, RawClient(url_of(mpim, 2)) as second:
        assert (await first.hello("alice", token=token))["t"] == "welcome"
        assert (await second.hello("alice", token=token))["error"] == "InvalidToken"
        assert (await second.ended())[0] == 1008
        assert (await first.ask({"t": "ping"}, "pong"))["t"] == "pong"
    assert figures_of(mpim, 2).refused == 1


@pytest.mark.parametrize(
    "first",
    [
        '{"t": "ping"}',
        "hello",
        b"\xff\x00\xfe",
        '{"t": "hello"}',
        '{"t": "hello", "token": 1}',
        '{"t": "hello", "token": "x", "device": "a b"}',
        "[]",
        "",
    ],
    ids=[
        "another frame",
        "text",
        "binary",
        "no token",
        "wrong type",
        "bad device",
        "list",
        "empty",
    ],
)
async def test_whoever_does_not_begin_with_hello_is_told_so_and_sent_away(mpim, first):
    """An error frame, close code 1008, and the figures count it."""
    async with RawClient(url_of(mpim)) as raw:
        assert (await raw.ask(first, "error"))["error"] == "InvalidMessage"
        assert (await raw.ended())[0] == 1008
    assert figures_of(mpim).refused == 1


async def test_whoever_does_not_say_hello_in_time_is_sent_away(server):
    """An error frame that says why, and close code 1008."""
    async with ImSystem(
        server.url, gateway_config=GatewayConfig(handshake_timeout_s=0.2), **system_options()
    ) as mpim:
        async with RawClient(url_of(mpim)) as raw:
            assert "no hello within 0.2 s" in (await raw.hear("error"))["text"]
            assert (await raw.ended())[0] == 1008
        assert figures_of(mpim).refused == 1 and len(mpim.gateways["gw-1"].sessions) == 0


async def test_hello_is_said_once(mpim):
    """A second hello is answered by an error, and the connection stays."""
    async with RawClient(url_of(mpim)) as raw:
        await raw.hello("alice")
        again = {"t": "hello", "token": TokenService(SECRET).issue("bob"), "device": "main"}
        assert (await raw.ask(again, "error"))["error"] == "InvalidMessage"
        assert (await raw.ask({"t": "ping"}, "pong"))["t"] == "pong"


# Messages


def message(text, **to):
    return {"t": "send", "id": new_message_id(), "text": text} | to


async def test_a_message_passes_between_gateways(mpim):
    """Sent at one, pushed at the other, with the sender's id and the conversation's number."""
    async with RawClient(url_of(mpim, 1)) as alice, RawClient(url_of(mpim, 2)) as bob:
        await alice.hello("alice")
        await bob.hello("bob")
        for number in (1, 2):
            frame = message(f"hi {number}", to="bob")
            sent = await alice.ask(frame, "sent")
            push = await bob.hear("push")
            assert sent == {
                "t": "sent",
                "id": frame["id"],
                "conversation": "alice:bob",
                "sequence": number,
                "told": "pushed",
            }
            assert abs(push.pop("at_ms") - time.time() * 1e3) < 60_000
            assert push == {
                "t": "push",
                "conversation": "alice:bob",
                "sequence": number,
                "id": frame["id"],
                "sender": "alice",
                "text": f"hi {number}",
            }


async def test_the_same_id_again_is_the_same_message(mpim):
    """Answered by "known" with the same number, at any gateway; the receiver gets it once."""
    frame = message("hi", to="bob")
    async with (
        RawClient(url_of(mpim, 1)) as alice,
        RawClient(url_of(mpim, 2)) as phone,
        RawClient(url_of(mpim)) as bob,
    ):
        await alice.hello("alice")
        await phone.hello("alice", "phone")
        await bob.hello("bob")
        assert (await alice.ask(frame, "sent"))["told"] == "pushed"
        again = await phone.ask(frame, "sent")
        assert (again["told"], again["sequence"]) == ("known", 1)
        await alice.ask(message("there", to="bob"), "sent")
        assert [(await bob.hear("push"))["sequence"] for _ in range(2)] == [1, 2]


async def test_what_is_acknowledged_is_known_at_the_next_welcome(mpim):
    """Acknowledged numbers do not go back; what was not acknowledged is to be pulled."""
    async with RawClient(url_of(mpim)) as alice:
        await alice.hello("alice")
        for number in range(5):
            await alice.ask(message(f"{number}", to="bob"), "sent")
        async with RawClient(url_of(mpim, 2)) as bob:
            assert (await bob.hello("bob"))["conversations"] == {"alice:bob": [0, 5]}
            page = await bob.ask({"t": "sync", "conversation": "alice:bob", "after": 2}, "page")
            assert [each["text"] for each in page["messages"]] == ["2", "3", "4"]
            assert page["last"] == 5 and page["missing"] is None
            await bob.say({"t": "ack", "conversation": "alice:bob", "sequence": 4})
            await bob.say({"t": "ack", "conversation": "alice:bob", "sequence": 3})
            await bob.ask({"t": "ping"}, "pong")
            await asyncio.sleep(0.1)  # acknowledgements are gathered for a moment
        async with RawClient(url_of(mpim)) as bob:
            assert (await bob.hello("bob"))["conversations"] == {"alice:bob": [4, 5]}


async def test_nobody_reads_a_conversation_of_others(mpim):
    """Not two others', not a group's, and a group that is not there is told as such."""
    async with RawClient(url_of(mpim)) as alice, RawClient(url_of(mpim)) as eve:
        await alice.hello("alice")
        await eve.hello("eve")
        await alice.ask(message("secret", to="bob"), "sent")
        await alice.ask({"t": "group", "group": "tea", "action": "create"}, "group")
        for conversation, error in (
            ("alice:bob", "AccessDenied"),
            ("#tea", "NotAMember"),
            ("#none", "NoSuchGroup"),
        ):
            told = await eve.ask({"t": "sync", "conversation": conversation, "after": 0}, "error")
            assert told["error"] == error and "secret" not in str(told)
        told = await eve.ask(message("let me in", group="tea"), "error")
        assert told["error"] == "NotAMember" and told["definite"]


async def test_what_is_not_acknowledged_is_told_of_again(server):
    """After `ack_timeout_s` a `behind` with the last number, until it is acknowledged."""
    async with (
        ImSystem(
            server.url,
            gateway_config=GatewayConfig(ack_timeout_s=0.2, maintenance_interval_s=0.05),
            **system_options(),
        ) as mpim,
        RawClient(url_of(mpim)) as alice,
        RawClient(url_of(mpim)) as bob,
    ):
        await alice.hello("alice")
        await bob.hello("bob")
        await alice.ask(message("hi", to="bob"), "sent")
        for _ in range(2):
            assert (await bob.hear("behind"))["conversations"] == {"alice:bob": 1}
        await alice.say({"t": "ack", "conversation": "alice:bob", "sequence": 1})
        await bob.say({"t": "ack", "conversation": "alice:bob", "sequence": 1})
        await bob.ask({"t": "ping"}, "pong")
        reminded = figures_of(mpim).reminded
        await asyncio.sleep(0.5)
        assert figures_of(mpim).reminded == reminded >= 2


# Devices


async def test_every_device_gets_everything(mpim):
    """Two of the receiver's at two gateways, and the sender's other one."""
    async with (
        RawClient(url_of(mpim, 1)) as alice, RawClient(url_of(mpim, 2)) as alices_phone,
        RawClient(url_of(mpim, 1)) as bob, RawClient(url_of(mpim, 2)) as bobs_phone,
    ):  # fmt: skip
        for raw, uid, device in ((alice, "alice", "main"), (alices_phone, "alice", "phone")):
            await raw.hello(uid, device)
        for raw, uid, device in ((bob, "bob", "main"), (bobs_phone, "bob", "phone")):
            await raw.hello(uid, device)
        for number in range(3):
            await alice.ask(message(f"{number}", to="bob"), "sent")
        for raw in (alices_phone, bob, bobs_phone):
            assert [(await raw.hear("push"))["text"] for _ in range(3)] == ["0", "1", "2"]


@pytest.mark.parametrize("other", [1, 2], ids=["at the same gateway", "at another gateway"])
async def test_the_same_device_again_takes_the_place_of_the_first(mpim, other):
    """The first connection is told and ended.

    The second gets the messages; the route is the second's.
    """
    async with RawClient(url_of(mpim, 1)) as first, RawClient(url_of(mpim, other)) as second:
        await first.hello("alice")
        await second.hello("alice")
        assert "replaced" in (await first.hear("bye"))["reason"]
        assert (await first.ended())[0] == 1008
        await wait_until(lambda: sum(len(each.sessions) for each in mpim.gateways.values()) == 1)
        routes = await mpim.services.presence.query_route("alice")
        assert [(each.device, each.gateway) for each in routes] == [("main", f"gw-{other}")]
        await second.ask(message("to myself", to="alice"), "sent")
        assert (await second.hear("push"))["text"] == "to myself"
    assert figures_of(mpim).replaced == 1


async def test_the_last_connection_of_a_user_takes_her_subscription_along(mpim):
    """A gateway listens for those who are connected to it, and for nobody else."""
    queue = mpim.gateways["gw-1"].services.queue
    async with RawClient(url_of(mpim)) as one:
        await one.hello("alice")
        async with RawClient(url_of(mpim)) as two:
            await two.hello("alice", "phone")
        await wait_until(lambda: len(mpim.gateways["gw-1"].sessions) == 1)
        assert await queue.subscriber_count("user:alice") == 1
    await wait_until(lambda: len(mpim.gateways["gw-1"].sessions) == 0)
    async with asyncio.timeout(5):
        while await queue.subscriber_count(
            "user:alice"
        ) or await mpim.services.presence.query_route("alice"):
            await asyncio.sleep(0.01)


# Presence, groups, notices


async def test_watchers_are_told_when_a_user_comes_and_goes_at_any_gateway(mpim):
    """First how it is now, then each change."""
    async with RawClient(url_of(mpim, 1)) as near, RawClient(url_of(mpim, 2)) as far:
        for number, raw in enumerate((near, far)):
            await raw.hello(f"watcher-{number}")
            told = await raw.ask({"t": "presence", "users": ["bob"]}, "presence")
            assert told == {"t": "presence", "uid": "bob", "status": "offline"}
        async with RawClient(url_of(mpim, 2)) as bob:
            await bob.hello("bob")
            for raw in (near, far):
                assert (await raw.hear("presence"))["status"] == "online"
        for raw in (near, far):
            assert (await raw.hear("presence"))["status"] == "offline"


async def test_nobody_watches_more_users_than_the_limit(mpim):
    """200 at once, and 200 in all."""
    async with RawClient(url_of(mpim)) as raw:
        await raw.hello("alice")
        too_many = {"t": "presence", "users": [f"u{number}" for number in range(201)]}
        assert (await raw.ask(too_many, "error"))["error"] == "InvalidMessage"
        await raw.ask(
            {"t": "presence", "users": [f"u{number}" for number in range(150)]}, "presence"
        )
        more = {"t": "presence", "users": [f"v{number}" for number in range(51)]}
        assert (await raw.ask(more, "error"))["error"] == "InvalidMessage"


async def test_a_group_is_made_joined_written_to_and_left(mpim):
    """Members get its messages, whoever joined later those from then on, whoever left none."""
    async with (
        RawClient(url_of(mpim, 1)) as alice,
        RawClient(url_of(mpim, 2)) as bob,
        RawClient(url_of(mpim, 2)) as eve,
    ):
        for raw, uid in ((alice, "alice"), (bob, "bob"), (eve, "eve")):
            await raw.hello(uid)
        made = await alice.ask(
            {"t": "group", "group": "tea", "action": "create", "members": ["bob"]}, "group"
        )
        assert made == {"t": "group", "group": "tea", "members": ["alice", "bob"], "last": 0}
        again = await bob.ask({"t": "group", "group": "tea", "action": "create"}, "error")
        assert again["error"] == "GroupExists"
        await alice.ask(message("one", group="tea"), "sent")
        joined = await eve.ask({"t": "group", "group": "tea", "action": "join"}, "group")
        assert joined == {
            "t": "group",
            "group": "tea",
            "members": ["alice", "bob", "eve"],
            "last": 1,
        }
        await alice.ask(message("two", group="tea"), "sent")
        assert [(await bob.hear("push"))["text"] for _ in range(2)] == ["one", "two"]
        assert (await eve.hear("push"))["text"] == "two"
        asked = await bob.ask({"t": "group", "group": "tea", "action": "members"}, "group")
        assert asked == {
            "t": "group",
            "group": "tea",
            "members": ["alice", "bob", "eve"],
            "last": 0,
        }
        left = await bob.ask({"t": "group", "group": "tea", "action": "leave"}, "group")
        assert left["members"] == ["alice", "eve"]
        assert (await bob.ask(message("still here", group="tea"), "error"))["error"] == "NotAMember"
        assert (await bob.ask({"t": "group", "group": "tea", "action": "members"}, "error"))[
            "error"
        ] == "NotAMember"
        none = await bob.ask({"t": "group", "group": "none", "action": "join"}, "error")
        assert none["error"] == "NoSuchGroup"


async def test_a_notice_reaches_every_client_of_every_gateway_once(mpim):
    """It is published once; each gateway passes it on to all of its clients."""
    async with connected(mpim, 20) as clients:
        assert await mpim.broadcast("tea is ready") == 2
        for raw in clients:
            assert (await raw.hear("notice"))["text"] == "tea is ready"
        assert await mpim.broadcast("tea is over") == 2
        for raw in clients:
            assert (await raw.next())["text"] == "tea is over"


# Packed batches


async def test_several_pushes_of_one_turn_come_as_one_binary_frame_to_whoever_reads_those(mpim):
    """packed: fewer, binary frames; without it one text frame each. The contents are the same."""
    async with RawClient(url_of(mpim)) as packed, RawClient(url_of(mpim)) as plain:
        await packed.hello("bob", "packed", packed=True)
        await plain.hello("bob", "plain")
        messages = mpim.services.messages
        await asyncio.gather(*(messages.send_message(request(f"{number}")) for number in range(50)))
        texts = [[(await raw.hear("push"))["text"] for _ in range(50)] for raw in (packed, plain)]
        assert texts[0] == texts[1] == [f"{number}" for number in range(50)]
        assert any(isinstance(raw, bytes) for raw in packed.raws) and len(packed.raws) < 40
        assert len(plain.raws) == 51 and all(isinstance(raw, str) for raw in plain.raws)


def request(text, to="bob"):
    return SendMessageRequest(new_message_id(), "alice", to, text)


# Silence


async def test_whoever_is_silent_for_too_long_is_taken_for_gone(server):
    """A ping is a sign of life.

    Without one the connection ends, counted once, and the route with it.
    """
    async with (
        ImSystem(
            server.url,
            gateway_config=GatewayConfig(idle_timeout_s=0.6, maintenance_interval_s=0.1),
            **system_options(),
        ) as mpim,
        RawClient(url_of(mpim)) as quiet,
        RawClient(url_of(mpim)) as lively,
    ):
        await quiet.hello("quiet")
        await lively.hello("lively")
        for _ in range(10):
            await lively.ask({"t": "ping"}, "pong")
            await asyncio.sleep(0.1)
        assert "silent" in (await quiet.hear("bye"))["reason"]
        assert (await quiet.ended())[0] == 1008
        await lively.ask({"t": "ping"}, "pong")
        assert figures_of(mpim).silent == 1
        async with asyncio.timeout(5):
            while await mpim.services.presence.query_route("quiet"):
                await asyncio.sleep(0.01)


async def test_a_join_that_is_said_again_passes_over_nothing(mpim):
    """Its answer was lost, and messages were written since: they are still to be read."""
    async with RawClient(url_of(mpim)) as alice:
        await alice.hello("alice")
        await alice.ask({"t": "group", "group": "tea", "action": "create"}, "group")
        await alice.ask(message("before", group="tea"), "sent")
        async with RawClient(url_of(mpim)) as bob:
            await bob.hello("bob")
            await bob.ask({"t": "group", "group": "tea", "action": "join"}, "group")
        await alice.ask(message("since", group="tea"), "sent")
        async with RawClient(url_of(mpim, 2)) as bob:
            assert (await bob.hello("bob"))["conversations"] == {"#tea": [1, 2]}
            await bob.ask({"t": "group", "group": "tea", "action": "join"}, "group")
        async with RawClient(url_of(mpim, 2)) as bob:
            assert (await bob.hello("bob"))["conversations"] == {"#tea": [1, 2]}


async def test_the_same_id_of_two_senders_names_two_messages(mpim):
    """Ids are each sender's own: nobody can take another's away."""
    async with RawClient(url_of(mpim, 1)) as alice, RawClient(url_of(mpim, 2)) as bob:
        await alice.hello("alice")
        await bob.hello("bob")
        for raw, to, number in ((alice, "bob", 1), (bob, "alice", 2)):
            sent = await raw.ask({"t": "send", "id": "1", "text": f"to {to}", "to": to}, "sent")
            assert (sent["sequence"], sent["told"]) == (number, "pushed")
        assert (await alice.hear("push"))["text"] == "to bob"
        assert (await alice.hear("push"))["text"] == "to alice"


async def test_a_frame_is_decoded_and_charged_once_whether_it_has_to_wait_or_not(
    server, monkeypatch
):
    """A question, a group's message, a direct one: each costs one token, and one reading."""
    decoded = []
    monkeypatch.setattr(
        "mpim_lab.im.gateway.frame_handler.decode_client",
        lambda raw: decoded.append(raw) or decode_client(raw),
    )
    config = GatewayConfig(rate_per_s=0.001, burst=6)
    async with (
        ImSystem(server.url, gateway_config=config, **system_options()) as mpim,
        RawClient(url_of(mpim)) as alice,
    ):
        await alice.hello("alice")
        await alice.ask({"t": "presence", "users": ["bob"]}, "presence")
        await alice.ask({"t": "group", "group": "tea", "action": "create"}, "group")
        for number, to in enumerate(({"group": "tea"}, {"to": "bob"}, {"to": "bob"})):
            await alice.ask({"t": "send", "id": f"m{number}", "text": "hi"} | to, "sent")
        await alice.ask({"t": "ping"}, "pong")
        assert (await alice.ask({"t": "ping"}, "error"))["error"] == "TooFast"
        assert len(decoded) == 7 == figures_of(mpim).received

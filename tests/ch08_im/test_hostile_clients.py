"""Clients that mean no good, or are broken.

Each ends in a named error or a closed connection, and harms nobody else.
"""

import asyncio
import base64
import contextlib
import json
import random
import socket

import pytest
from websockets.exceptions import ConnectionClosed

from mpim_lab.events import now
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.frames import MAX_FRAME_BYTES
from mpim_lab.im.protocol.requests import MAX_TEXT_CHARS, SendMessageRequest
from mpim_lab.im.services.tokens import TokenService
from mpim_lab.im.system import ImSystem
from mpim_lab.mq.connection.encoding import new_message_id
from tests.raw_clients import SECRET, RawClient, system_of_its_own, system_options
from tests.support import wait_until


@contextlib.asynccontextmanager
async def system(gateways=1, **limits):
    """Gateways over a server of their own, with these limits."""
    async with system_of_its_own(gateways, gateway_config=GatewayConfig(**limits)) as mpim:
        yield mpim


def gateway_of(mpim):
    return mpim.gateways["gw-1"]


def message(text, to="bob"):
    return {"t": "send", "id": new_message_id(), "text": text, "to": to}


async def is_alive(mpim, uid="innocent"):
    """Whether somebody else is served as ever."""
    async with RawClient(gateway_of(mpim).url) as other:
        await other.hello(uid)
        return (await other.ask(message("hi", to=uid), "sent"))["t"] == "sent"


# Frames that cannot be read

DEEP = 5_000
UNREADABLE = {
    "no JSON": "hello",
    "binary": bytes(range(128, 256)),
    "empty": "",
    "a list": "[]",
    "null": "null",
    "no type": "{}",
    "unknown type": '{"t": "drop table"}',
    "the gateway's frame": '{"t": "push", "conversation": "a:b", "sequence": 1, "id": "x", '
    '"sender": "a", "text": "x"}',
    "type is a number": '{"t": 1}',
    "deep lists": '{"t": "ping", "x": ' + "[" * DEEP + "]" * DEEP + "}",
    "deep objects": '{"t": "ping", "x": ' + '{"a":' * 2_500 + "1" + "}" * 2_500 + "}",
    "half a frame": '{"t": "send", "id": "m1", "to"',
    "huge number": '{"t": "ack", "conversation": "a:b", "sequence": ' + "9" * 4_000 + "}",
    "number above the limit": '{"t": "ack", "conversation": "a:b", "sequence": 9007199254740993}',
    "negative number": '{"t": "sync", "conversation": "a:b", "after": -1}',
    "infinite": '{"t": "sync", "conversation": "a:b", "after": 1e999}',
    "not a whole number": '{"t": "sync", "conversation": "a:b", "after": 1.5}',
    "half a character": '{"t": "send", "id": "m1", "to": "bob", "text": "\\ud800"}',
    "broken UTF-8": b'{"t": "send", "id": "m1", "to": "bob", "text": "\xff"}',
    "to nobody": '{"t": "send", "id": "m1", "text": "x"}',
    "to a user and a group": '{"t": "send", "id": "m1", "text": "x", "to": "bob", "group": "tea"}',
    "to many words": '{"t": "send", "id": "m1", "text": "x", "to": "bob eve"}',
    "a channel's name": '{"t": "send", "id": "m1", "text": "x", "to": "status:bob"}',
    "an id with a blank": '{"t": "send", "id": "m 1", "text": "x", "to": "bob"}',
    "an id with a line's end": '{"t": "send", "id": "m1\\n", "text": "x", "to": "bob"}',
    "a name with a line's end": '{"t": "send", "id": "m1", "text": "x", "to": "bob\\n"}',
    "a group with a line's end": '{"t": "group", "group": "tea\\n", "action": "create"}',
    "text above the limit": json.dumps(
        {"t": "send", "id": "m1", "to": "bob", "text": "x" * (MAX_TEXT_CHARS + 1)}
    ),
    "no text": '{"t": "send", "id": "m1", "to": "bob", "text": ""}',
    "an unknown action": '{"t": "group", "group": "tea", "action": "destroy"}',
    "members are no names": '{"t": "group", "group": "tea", "action": "create", "members": [""]}',
}


@pytest.mark.parametrize("frame", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_frame_that_cannot_be_read_is_named_and_nothing_is_done(server, frame):
    """An error frame; the connection stays; nothing is kept on the server."""
    async with ImSystem(server.url, **system_options()) as mpim:
        async with RawClient(gateway_of(mpim).url) as raw:
            await raw.hello("alice")
            told = await raw.ask(frame, "error")
            assert told["error"] == "InvalidMessage" and len(told["text"]) < 300
            assert (await raw.ask({"t": "ping"}, "pong"))["t"] == "pong"
        assert gateway_of(mpim).metrics.unreadable == 1
        assert await mpim.services.messages.conversations("alice") == {}


@pytest.mark.parametrize("name", ["__proto__", "..", "-", "constructor", "0", "A" * 64, "con"])
async def test_odd_names_are_names(name):
    """What is allowed is delivered, whatever it means elsewhere."""
    async with system() as mpim, RawClient(gateway_of(mpim).url) as raw:
        await raw.hello(name)
        assert (await raw.ask(message("hi", to=name), "sent"))["conversation"] == f"{name}:{name}"
        assert (await raw.hear("push"))["text"] == "hi"


@pytest.mark.parametrize(
    "text",
    [
        "x" * MAX_TEXT_CHARS,
        "\U0001f375" * MAX_TEXT_CHARS,
        '"\\\n' * 1_300,
        "a\u2028\u0000\x7f",
        " ",
    ],
)
async def test_any_text_within_the_limit_arrives_as_it_was(text):
    """4,000 characters, of four bytes each, too."""
    async with system() as mpim, RawClient(gateway_of(mpim).url) as raw:
        await raw.hello("bob")
        frame = json.dumps(message(text), ensure_ascii=False)
        assert len(frame.encode()) <= MAX_FRAME_BYTES
        await raw.ask(frame, "sent")
        assert (await raw.hear("push"))["text"] == text
        page = await raw.ask({"t": "sync", "conversation": "bob:bob", "after": 0}, "page")
        assert page["messages"][0]["text"] == text


@pytest.mark.parametrize("is_welcome", [False, True], ids=["as the first frame", "later"])
async def test_a_frame_above_the_limit_ends_the_connection(is_welcome):
    """Code 1009, and it is not read into memory."""
    async with system() as mpim:
        async with RawClient(gateway_of(mpim).url) as raw:
            if is_welcome:
                await raw.hello("alice")
            await raw.say("x" * (MAX_FRAME_BYTES + 1))
            assert (await raw.ended())[0] == 1009
        assert await is_alive(mpim)


async def test_fragments_do_not_get_around_the_limit():
    """A message in a thousand parts has one limit."""
    async with system() as mpim:
        async with RawClient(gateway_of(mpim).url) as raw:
            await raw.hello("alice")
            with contextlib.suppress(ConnectionClosed):
                await raw.ws.send(["x" * 1_000] * 1_000)
            assert (await raw.ended())[0] == 1009
        assert await is_alive(mpim)


async def test_ten_thousand_fuzzed_frames_are_each_answered_and_harm_nobody():
    """Good frames with bytes changed, put in and taken out.

    An error, an answer, or the end of the connection.
    """
    await fuzz(connections=5)


async def fuzz(connections):
    """Each sends 2,000 frames."""
    async with system(max_violations=10**6, rate_per_s=10**6, burst=10**6) as mpim:
        rng, answered = random.Random(7), 0
        for _ in range(connections):
            async with RawClient(gateway_of(mpim).url) as raw:
                await raw.hello("fuzz")
                reading = asyncio.create_task(_count(raw))
                with contextlib.suppress(ConnectionClosed):
                    for _ in range(2_000):
                        await raw.say(_fuzzed(rng))
                    await raw.say('{"t": "ping"}')
                await asyncio.wait([reading], timeout=20)
                answered += reading.result() if reading.done() else 0
        assert answered > 1_000 * connections
        assert gateway_of(mpim).metrics.unreadable > 1_000 * connections
        await wait_until(lambda: len(gateway_of(mpim).sessions) == 0)
        assert await is_alive(mpim)


async def _count(raw):
    count = 0
    with contextlib.suppress(ConnectionClosed):
        while (await raw.next())["t"] != "pong":
            count += 1
    return count


def _fuzzed(rng):
    frames = [
        message("hi"),
        {"t": "ack", "conversation": "bob:fuzz", "sequence": 1},
        {"t": "sync", "conversation": "bob:fuzz", "after": 0},
        {"t": "presence", "users": ["bob"]},
        {"t": "group", "group": "tea", "action": "join"},
    ]
    raw = bytearray(json.dumps(rng.choice(frames)).encode())
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(raw))
        match rng.randrange(3):
            case 0:
                raw[place] = rng.randrange(256)
            case 1:
                raw.insert(place, rng.randrange(256))
            case _ if len(raw) > 1:
                del raw[place]
    return bytes(raw)


# Floods


async def test_whoever_asks_too_often_is_told_so_and_in_the_end_sent_away():
    """TooFast for each frame above the limit; then 1008. Others are not delayed."""
    async with system(rate_per_s=50, burst=20, max_violations=30) as mpim:
        async with RawClient(gateway_of(mpim).url) as raw:
            await raw.hello("flood")
            with contextlib.suppress(ConnectionClosed):
                for _ in range(200):
                    await raw.say(message("x"))
            heard = []
            with contextlib.suppress(ConnectionClosed):
                while True:
                    heard.append(await raw.next())
            assert raw.ws.close_code == 1008
        errors = [frame for frame in heard if frame["t"] == "error"]
        assert {frame["error"] for frame in errors} == {"TooFast"} and len(errors) == 31
        assert all(frame["id"] and frame["definite"] for frame in errors)
        assert 20 <= sum(frame["t"] == "sent" for frame in heard) < 60
        assert gateway_of(mpim).metrics.too_fast == 31
        assert await is_alive(mpim)


async def test_a_flood_of_acknowledgements_ends_the_connection_too():
    """They cost a client nothing to say.

    So there is a limit to them, far above what reading needs.
    """
    async with system() as mpim:
        async with RawClient(gateway_of(mpim).url) as raw:
            await raw.hello("flood")
            with contextlib.suppress(ConnectionClosed):
                for number in range(50_000):
                    await raw.say(
                        {"t": "ack", "conversation": f"flood:u{number}", "sequence": number}
                    )
            assert (await raw.ended())[0] == 1008
        assert await is_alive(mpim)


async def test_nobody_acknowledges_conversations_of_others():
    """Such an ack is a fault; nothing of it is kept."""
    async with system() as mpim, RawClient(gateway_of(mpim).url) as raw:
        await raw.hello("eve")
        for name in ("alice:bob", "nonsense", "eve:", "eve:b c", "#", "#tea pot", "eve:a:b"):
            told = await raw.ask({"t": "ack", "conversation": name, "sequence": 7}, "error")
            assert told["error"] in ("AccessDenied", "InvalidMessage")
        await asyncio.sleep(0.1)
        assert await mpim.services.messages.log.read_positions("eve") == {}


async def test_faults_are_forgotten_in_time():
    """A client that errs now and then is not sent away for it after weeks."""
    async with (
        system(max_violations=5, violation_decay_s=0.5, maintenance_interval_s=0.05) as mpim,
        RawClient(gateway_of(mpim).url) as raw,
    ):
        await raw.hello("clumsy")
        for _ in range(3):
            for _ in range(4):
                await raw.ask("nonsense", "error")
            await asyncio.sleep(0.7)
        assert (await raw.ask({"t": "ping"}, "pong"))["t"] == "pong"


# Connections that say nothing


async def test_thousands_of_connections_that_never_say_hello_keep_nobody_out():
    """They end after `handshake_timeout_s`; meanwhile who has a token is served."""
    async with system(handshake_timeout_s=2.0) as mpim:
        async with contextlib.AsyncExitStack() as stack:
            idle = [
                await stack.enter_async_context(RawClient(gateway_of(mpim).url))
                for _ in range(1_000)
            ]
            sockets = [
                socket.create_connection(("127.0.0.1", gateway_of(mpim).port)) for _ in range(500)
            ]
            assert await is_alive(mpim)
            began = now()
            codes = {(await raw.ended())[0] for raw in idle}
            assert codes == {1008} and now() - began < 5
            for each in sockets:
                each.close()
        await wait_until(lambda: gateway_of(mpim).metrics.refused == 1_000)


async def test_connections_without_hello_count_as_clients():
    """Above `max_clients` nobody is let in, whether they have said hello or not.

    1013, try later.
    """
    async with (
        system(max_clients=10, handshake_timeout_s=5) as mpim,
        contextlib.AsyncExitStack() as stack,
    ):
        idle = [await stack.enter_async_context(RawClient(gateway_of(mpim).url)) for _ in range(10)]
        await asyncio.sleep(0.05)
        async with RawClient(gateway_of(mpim).url) as late:
            assert (await late.ended())[0] == 1013
        await idle[0].ws.close()
        await asyncio.sleep(0.05)
        assert await is_alive(mpim)


# Slow readers


async def test_a_slow_reader_is_held_back_and_has_everything_once_it_reads_again():
    """5,000 messages of 1,000 bytes.

    What waits for it is bounded, others get theirs at once, `behind` tells it to pull.
    """
    async with system(
        max_push_buffer_bytes=64 * 1024, maintenance_interval_s=0.05, idle_timeout_s=60
    ) as mpim:
        gateway, bob_got = gateway_of(mpim), []
        async with _slow(gateway.url) as slow, RawClient(gateway.url) as quick:
            await slow.hello("bob", "slow")
            await quick.hello("bob", "quick")
            reading = asyncio.create_task(_read(quick, bob_got, 5_000))
            slow.ws.transport.pause_reading()
            session = next(
                each for each in gateway.sessions.by_user["bob"] if each.route.device == "slow"
            )
            most, longest = 0, 0.0
            for begin in range(0, 5_000, 50):
                began = now()
                await asyncio.gather(*(_send(mpim, number) for number in range(begin, begin + 50)))
                longest, most = max(longest, now() - began), max(most, session.buffered_bytes)
            await asyncio.wait_for(reading, 20)
            assert bob_got == list(range(1, 5_001)) and longest < 1.0
            assert most < 64 * 1024 + 200_000 and gateway.metrics.held_back > 1_000
            slow.ws.transport.resume_reading()
            assert await _pull_all(slow, 5_000) == [str(number) for number in range(5_000)]


def _slow(url):
    return RawClient(url, max_queue=1)


async def _send(mpim, number):
    text = f"{number} " + "x" * 1_000
    await mpim.services.messages.send_message(
        SendMessageRequest(f"m{number}", "alice", "bob", text)
    )


async def _read(raw, got, count):
    while len(got) < count:
        frame = await raw.next()
        if frame["t"] == "push":
            got.append(frame["sequence"])
        elif frame["t"] == "behind":
            got += range(got[-1] + 1, frame["conversations"]["alice:bob"] + 1)


async def _pull_all(raw, count):
    """Read pushes; after `behind` pull.

    Gives the texts in the order of their numbers; fails when one is different.
    """
    texts, told = {}, 0
    while not told:
        frame = await raw.next()
        if frame["t"] == "push":
            texts[frame["sequence"]] = frame["text"]
        elif frame["t"] == "behind":  # how far it was then; a kernel's buffers may take some before
            told = frame["conversations"]["alice:bob"]
    assert 0 < told <= count
    while len(texts) < count:
        page = await raw.ask(
            {"t": "sync", "conversation": "alice:bob", "after": max(texts)}, "page"
        )
        assert page["missing"] is None
        texts |= {each["sequence"]: each["text"] for each in page["messages"]}
    assert sorted(texts) == list(range(1, count + 1))
    return [texts[number].split()[0] for number in sorted(texts)]


async def test_whoever_never_reads_again_is_sent_away_within_bounds():
    """After `slow_consumer_timeout_s`, even if pings come all the time.

    Session, route and buffers are gone soon after.
    """
    async with system(
        max_push_buffer_bytes=64 * 1024, maintenance_interval_s=0.05, slow_consumer_timeout_s=0.5
    ) as mpim:
        gateway = gateway_of(mpim)
        async with _slow(gateway.url) as slow:
            await slow.hello("bob")
            slow.ws.transport.pause_reading()
            for begin in range(0, 6_000, 200):
                await asyncio.gather(*(_send(mpim, number) for number in range(begin, begin + 200)))
            async with asyncio.timeout(8):
                while len(gateway.sessions):
                    with contextlib.suppress(ConnectionClosed):
                        await asyncio.wait_for(slow.say({"t": "ping"}), 0.2)
                    await asyncio.sleep(0.1)
        assert gateway.metrics.slow == 1
        assert await is_alive(mpim)


async def test_whoever_asks_and_never_reads_the_answers_is_sent_away():
    """Answers pile up to `max_send_buffer_bytes` and not further."""
    async with system(
        max_send_buffer_bytes=256 * 1024,
        rate_per_s=10_000,
        burst=10_000,
        maintenance_interval_s=0.05,
    ) as mpim:
        gateway = gateway_of(mpim)
        for begin in range(0, 200, 50):
            await asyncio.gather(*(_send(mpim, number) for number in range(begin, begin + 50)))
        async with _slow(gateway.url) as slow:
            await slow.hello("bob")
            slow.ws.transport.pause_reading()
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(5):
                    for _ in range(2_000):
                        await slow.say({"t": "sync", "conversation": "alice:bob", "after": 0})
            await wait_until(lambda: len(gateway.sessions) == 0, within_s=8)
        assert gateway.metrics.slow == 1


async def test_notices_to_whoever_does_not_read_do_not_pile_up_without_end():
    """A client that has no messages and reads nothing is bounded by `max_send_buffer_bytes`."""
    async with system(max_send_buffer_bytes=256 * 1024, maintenance_interval_s=0.05) as mpim:
        gateway = gateway_of(mpim)
        async with _slow(gateway.url) as slow:
            await slow.hello("bob")
            slow.ws.transport.pause_reading()
            for _ in range(400):
                await mpim.broadcast("x" * 20_000)
                await asyncio.sleep(0.001)
            await wait_until(lambda: len(gateway.sessions) == 0, within_s=8)
        assert gateway.metrics.slow == 1


async def test_a_gateway_that_closes_does_not_wait_for_whoever_does_not_read():
    """Nor for whoever stays after `bye`: drained within `drain_timeout_s` and a moment."""
    async with system(drain_timeout_s=1.0, max_push_buffer_bytes=64 * 1024) as mpim:
        gateway = gateway_of(mpim)
        async with (
            _slow(gateway.url) as slow,
            RawClient(gateway.url) as stubborn,
            RawClient(gateway.url),
        ):
            await slow.hello("bob")
            slow.ws.transport.pause_reading()
            await stubborn.hello("eve")
            for begin in range(0, 2_000, 100):
                await asyncio.gather(*(_send(mpim, number) for number in range(begin, begin + 100)))
            began = now()
            await asyncio.wait_for(mpim.stop("gw-1"), 10)
            assert now() - began < 5
            assert "closes" in (await stubborn.hear("bye"))["reason"]
            assert (await stubborn.ended())[0] == 1001


async def test_a_line_that_breaks_in_the_middle_of_everything_leaves_nothing_behind():
    """Hello, then the socket is reset, two hundred times at once.

    No session, no route, no subscription stays.
    """
    async with system() as mpim:
        gateway = gateway_of(mpim)

        async def come_and_go(number):
            raw = RawClient(gateway.url)
            await raw.__aenter__()
            await raw.say(
                {"t": "hello", "token": TokenService(SECRET).issue(f"u{number}"), "device": "main"}
            )
            await asyncio.sleep(random.Random(number).random() * 0.05)
            raw.ws.transport.abort()

        await asyncio.gather(*(come_and_go(number) for number in range(200)))
        await wait_until(lambda: len(gateway.sessions) == 0 and not gateway.connections)
        routes = await mpim.services.presence.query_routes([f"u{number}" for number in range(200)])
        assert not any(routes.values())
        assert (
            sum(
                [
                    await gateway.services.queue.subscriber_count(f"user:u{number}")
                    for number in range(200)
                ]
            )
            == 0
        )


async def test_a_gateway_that_closes_does_not_wait_for_sockets_that_said_nothing():
    """A connection whose handshake has not begun is dropped, and not waited for."""
    async with system(handshake_timeout_s=30) as mpim:
        with socket.create_connection(("127.0.0.1", gateway_of(mpim).port)):
            await asyncio.sleep(0.1)
            began = now()
            await mpim.stop("gw-1")
            assert now() - began < 2


@pytest.mark.parametrize("is_welcome", [True, False])
@pytest.mark.parametrize(
    "flood", [b"\x89\x80abcd", b"\x8a\x80abcd", b"\x01\x80abcd" + 20_000 * b"\x00\x80abcd"]
)
async def test_a_flood_of_frames_that_say_nothing_ends_the_connection(flood, is_welcome):
    """Pings, pongs, and a message of empty fragments without end.

    The reason is told, and others are served meanwhile.
    """
    async with system() as mpim, mpim.client("bob") as bob:
        async with RawClient(gateway_of(mpim).url) as raw:
            if is_welcome:
                await raw.hello("eve")
            raw.ws.transport.write(flood if len(flood) > 10 else flood * 20_000)
            assert await raw.ended() == (1008, "too many frames that say nothing")
        await bob.send("alice", "I am served")
        await wait_until(lambda: len(gateway_of(mpim).sessions) == 1)


async def test_a_ping_now_and_then_is_answered_for_as_long_as_one_likes():
    """The patrol forgets them: only a flood counts."""
    async with system(maintenance_interval_s=0.01) as mpim, RawClient(gateway_of(mpim).url) as raw:
        await raw.hello("alice")
        for _ in range(30):
            for _ in range(100):
                await (await raw.ws.ping())
        assert (await raw.ask({"t": "ping"}, "pong"))["t"] == "pong"


@pytest.mark.parametrize("part", ["header", "payload"])
async def test_a_token_nested_without_end_is_no_token(part):
    """InvalidToken, and not a mistake of the gateway."""
    nested = base64.urlsafe_b64encode(b"[" * 1_400).decode()
    token = f"{nested}.e30.x" if part == "header" else f"e30.{nested}.x"
    async with system() as mpim, RawClient(gateway_of(mpim).url) as raw:
        problem = await raw.hello("eve", token=token[:2_000])
        assert (problem["error"], problem["transient"]) == ("InvalidToken", False)

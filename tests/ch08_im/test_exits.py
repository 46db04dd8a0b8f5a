"""What a connection takes is given back, in whatever way it ends.

Then the server knows of nobody but those who are there.
"""

import asyncio
import contextlib
import socket

import pytest

from mpim_lab.errors import MpimError
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.protocol.closing import close_or_abort
from mpim_lab.im.protocol.requests import BindRouteRequest
from mpim_lab.im.services.tokens import TokenService
from mpim_lab.im.system import ImSystem
from mpim_lab.keys import Keys
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from tests.raw_clients import SECRET, RawClient, system_options
from tests.support import wait_until

LIMITS = GatewayConfig(
    maintenance_interval_s=0.05,
    idle_timeout_s=30.0,
    handshake_timeout_s=1.5,
    drain_timeout_s=0.5,
    max_send_buffer_bytes=2**20,
)
IMPATIENT = ConnectionConfig(
    timeout_s=0.5, connect_timeout_s=0.5, heartbeat_s=0.5, backoff=Backoff(0.02, 0.1)
)
UIDS = ("alice", "bob", "carol", "dave", "watched")


class Lab:
    """A system, and the comparison of what its server knows with who is connected."""

    def __init__(self, server, mpim):
        self.server, self.mpim = server, mpim
        self.here = contextlib.AsyncExitStack()

    def url(self, number=1):
        return self.mpim.gateways[f"gw-{number}"].url

    async def come(self, uid, device="main", number=1, *, watching=()):
        """A connection that is welcome, and watches."""
        raw = RawClient(self.url(number))
        await raw.__aenter__()
        assert (await raw.hello(uid, device))["t"] == "welcome"
        if watching:
            await raw.say({"t": "presence", "users": list(watching)})
            for _ in watching:
                await raw.hear("presence")
        return raw

    async def known(self):
        """The channels of users that somebody listens on, and the routes."""
        link = self.mpim.services.queue.context("test").connection
        channels = {name.decode() for name in await link.call("PUBSUB", "CHANNELS", "user:*")}
        routes = await self.mpim.services.presence.query_routes(UIDS)
        return channels, sorted(
            (uid, route.device, route.gateway) for uid in UIDS for route in routes[uid]
        )

    async def comes_to(self, *connected, watched=()):
        """Whether soon the server and the gateways know these and nobody else.

        (uid, device, gateway).
        """
        channels = {f"user:{uid}" for uid, _, _ in connected} | {
            f"user:status:{uid}" for uid in watched
        }
        seen = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while True:
                    with contextlib.suppress(MpimError):
                        seen = await self.known()
                        if seen == (channels, sorted(connected)) and self._is_tidy(
                            connected, channels
                        ):
                            return
                    await asyncio.sleep(0.02)
        raise AssertionError(f"the server knows {seen}")

    def _is_tidy(self, connected, channels):
        gateways = self.mpim.gateways.values()
        counts = [
            sum(1 for _, _, name in connected if name == gateway.name) for gateway in gateways
        ]
        return (
            [len(gateway.sessions) for gateway in gateways] == counts
            and [len(gateway.connections) for gateway in gateways] == counts
            and [len(gateway._handlers) for gateway in gateways] == counts
            and {name for gateway in gateways for name in gateway.sessions.channels._subscribed}
            == channels
        )


@contextlib.asynccontextmanager
async def lab_of(gateway_config=LIMITS, **options):
    """Two gateways over a server of their own, which may be stopped; routes last for an hour."""
    given = (
        system_options(gateway_config=gateway_config, queue_config=IMPATIENT, route_ttl_s=3_600)
        | options
    )
    async with (
        EmbeddedServer(persistence="always") as server,
        ImSystem(server.url, gateways=2, **given) as mpim,
    ):
        yield Lab(server, mpim)


async def closes(lab, raw):
    await raw.ws.close()


async def is_reset(lab, raw):
    raw.ws.transport.abort()


async def is_half_closed(lab, raw):
    raw.ws.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)


async def talks_nonsense(lab, raw):
    await raw.say("x" * 20_000)


async def is_sent_away(lab, raw):
    session = lab.mpim.gateways["gw-1"].sessions.by_user["alice"][0]
    lab.mpim.gateways["gw-1"].close_session(session, "for a test")


async def is_not_reading(lab, raw):
    raw.ws.transport.pause_reading()
    session = lab.mpim.gateways["gw-1"].sessions.by_user["alice"][0]
    session.enqueue(b"x" * 12_000_000)


async def loses_its_handler(lab, raw):
    for task in lab.mpim.gateways["gw-1"]._handlers:
        task.cancel()


ENDS = [
    closes,
    is_reset,
    is_half_closed,
    talks_nonsense,
    is_sent_away,
    is_not_reading,
    loses_its_handler,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_whatever_ends_a_connection_nothing_of_it_stays(end):
    """Its route, its subscriptions and those for whom it watched are gone.

    Its neighbour, who watches one of them, stays.
    """
    async with lab_of() as lab:
        alice = await lab.come("alice", watching=["bob", "watched"])
        bob = await lab.come("bob", number=2, watching=["watched"])
        here = [("alice", "main", "gw-1"), ("bob", "main", "gw-2")]
        await lab.comes_to(*here, watched=["bob", "watched"])
        await end(lab, alice)
        await lab.comes_to(here[1], watched=["watched"])
        await asyncio.gather(close_or_abort(alice.ws, 1000, "", 0.1), bob.ws.close())
        await lab.comes_to()


async def test_whoever_is_silent_leaves_nothing_behind():
    """The heartbeat's end is an end like the others."""
    async with lab_of(GatewayConfig(maintenance_interval_s=0.05, idle_timeout_s=0.3)) as lab:
        await lab.come("alice", watching=["bob"])
        await lab.comes_to()


async def test_a_replaced_connection_leaves_the_new_ones_route_and_subscription():
    """At the same gateway and at another one: there is always one, the newest."""
    async with lab_of() as lab:
        for number in (1, 1, 2, 1):
            await lab.come("alice", number=number, watching=["bob"])
            await lab.comes_to(("alice", "main", f"gw-{number}"), watched=["bob"])


async def test_twenty_connections_of_one_device_at_once_leave_one_that_works():
    """Whoever comes last stays; what the others had is given back."""
    async with lab_of() as lab:
        raws = [RawClient(lab.url(number % 2 + 1)) for number in range(20)]
        await asyncio.gather(*(raw.__aenter__() for raw in raws))
        await asyncio.gather(*(raw.hello("alice") for raw in raws))
        await wait_until(
            lambda: sum(len(gateway.sessions) for gateway in lab.mpim.gateways.values()) == 1
        )
        (name,) = (gateway.name for gateway in lab.mpim.gateways.values() if len(gateway.sessions))
        await lab.comes_to(("alice", "main", name))
        await asyncio.gather(*(raw.ws.close() for raw in raws))
        await lab.comes_to()


async def test_a_gateway_that_stops_leaves_nothing_behind():
    """Its clients' routes and subscriptions, and its own channels."""
    async with lab_of() as lab:
        await lab.come("alice", watching=["bob"])
        await lab.come("carol", number=2)
        link = lab.mpim.services.queue.context("test").connection
        await lab.mpim.stop("gw-1")
        await lab.comes_to(("carol", "main", "gw-2"))
        assert await link.call("PUBSUB", "CHANNELS", "gateway:gw-1") == []


async def test_a_handshake_that_fails_halfway_leaves_nothing_behind():
    """Its route cannot be bound: she is told why, and nobody listens for her."""
    async with lab_of() as lab:
        link = lab.mpim.services.queue.context("test").connection
        await link.call("SET", Keys().route("alice"), "not a route")
        async with RawClient(lab.url()) as alice:
            answer = await alice.hello("alice")
        assert (answer["error"], answer["transient"]) == ("CommandRejected", False)
        await link.call("DEL", Keys().route("alice"))
        await lab.comes_to()


@pytest.mark.parametrize("rounds", range(0, 12, 2))
async def test_a_connection_that_is_reset_during_its_handshake_leaves_nothing_behind(rounds):
    """After any number of turns of the loop since its hello."""
    async with lab_of() as lab:
        raw = RawClient(lab.url())
        await raw.__aenter__()
        await raw.say(
            {"t": "hello", "token": TokenService(SECRET).issue("alice"), "device": "main"}
        )
        for _ in range(rounds):
            await asyncio.sleep(0)
        raw.ws.transport.abort()
        await asyncio.sleep(0.1)
        await lab.comes_to()


@pytest.mark.parametrize("after", ["hello", "welcome"])
async def test_what_could_not_be_given_back_while_the_server_hung_is_given_back_later(after):
    """Long before a route would end by itself, after an hour."""
    async with lab_of() as lab:
        raw = RawClient(lab.url())
        await raw.__aenter__()
        if after == "welcome":
            await raw.hello("alice")
            await raw.ask({"t": "presence", "users": ["bob"]}, "presence")
        lab.server.pause()
        try:
            if after == "hello":
                await raw.say(
                    {"t": "hello", "token": TokenService(SECRET).issue("alice"), "device": "main"}
                )
                await asyncio.sleep(0.2)
            raw.ws.transport.abort()
            await wait_until(lambda: not lab.mpim.gateways["gw-1"].connections, within_s=20)
        finally:
            lab.server.resume()
        await lab.comes_to()


async def test_what_could_not_be_given_back_while_the_server_was_gone_is_given_back_later():
    """The server dies and comes back with what it kept.

    The route of somebody who left meanwhile is among it, and goes.
    """
    async with lab_of() as lab:
        alice, bob = await lab.come("alice", watching=["bob"]), await lab.come("bob", number=2)
        lab.server.kill()
        await alice.ws.close()
        await wait_until(lambda: not lab.mpim.gateways["gw-1"].connections, within_s=20)
        await lab.server.restart()
        await lab.comes_to(("bob", "main", "gw-2"))
        await bob.ws.close()
        await lab.comes_to()


async def test_whoever_leaves_while_her_watching_is_begun_again_is_not_watched_for():
    """The patrol is at it when the session ends: the subscription is given back all the same."""
    async with lab_of() as lab:
        gateway, alice = lab.mpim.gateways["gw-1"], await lab.come("alice")
        (session,) = gateway.sessions
        session.watched = {"watched"}
        gateway.maintenance._presence_refreshed_at -= 100
        subscribe, leaving = gateway.services.queue.subscribe, []

        async def slow(channel, handler):
            await subscribe(channel, handler)
            if not leaving:
                leaving.append(asyncio.create_task(gateway._handshake.disconnect(session)))
                await asyncio.sleep(0.05)

        gateway.services.queue.subscribe = slow
        await wait_until(lambda: leaving)
        gateway.services.queue.subscribe = subscribe
        await asyncio.gather(*leaving)
        alice.ws.transport.abort()
        await lab.comes_to()
        assert (
            not gateway.presence_watcher.watched
            and not gateway.presence_watcher._last_status
            and not gateway.presence_watcher._versions
        )


async def test_a_gateway_that_cannot_listen_gives_back_what_it_had_begun():
    """Its port is taken: a named error.

    Its channels are not subscribed, and its name can be used again at once.
    """
    async with lab_of() as lab:
        link = lab.mpim.services.queue.context("test").connection
        with pytest.raises(MpimError, match="cannot listen"):
            await lab.mpim.start("gw-9", port=lab.mpim.gateways["gw-1"].port)
        assert await link.call("PUBSUB", "CHANNELS", "gateway:gw-9") == []
        await lab.mpim.start("gw-9")


async def test_two_gateways_of_one_name_keep_to_their_own():
    """As after a restart that overlaps.

    Pushes, routes and replacements go by user and connection, not by the name.
    """
    async with (
        lab_of() as lab,
        ImSystem(
            lab.server.url, **system_options(gateway_config=LIMITS, queue_config=IMPATIENT)
        ) as second,
    ):
        alice = await lab.come("alice")
        async with RawClient(second.gateways["gw-1"].url) as bob:
            await bob.hello("bob")
            for frame, uid in ((alice, "bob"), (bob, "alice")):
                await frame.say({"t": "send", "id": f"to-{uid}", "to": uid, "text": "hi"})
            for raw in (alice, bob):
                assert {(await raw.hear("push"))["id"], (await raw.hear("push"))["id"]} == {
                    "to-bob",
                    "to-alice",
                }
            async with RawClient(second.gateways["gw-1"].url) as newer:
                await newer.hello("alice")
                assert "replaced" in (await alice.hear("bye"))["reason"]
                late = BindRouteRequest("alice", "main", "gw-1", "another-connection")
                assert not await lab.mpim.services.presence.unbind_route(late)
                await newer.say({"t": "ping"})
                assert await newer.hear("pong")
                assert len(second.gateways["gw-1"].sessions) == 2


async def test_a_client_is_told_after_a_gap_although_the_first_try_fails(monkeypatch):
    """What was pushed while the line was down is pulled as soon as the database answers again."""
    async with lab_of(GatewayConfig(maintenance_interval_s=0.05, ack_timeout_s=30.0)) as lab:
        alice, bob = await lab.come("alice"), await lab.come("bob", number=2)
        gateway = lab.mpim.gateways["gw-2"]
        conversations, failures = gateway.services.messages.conversations, []

        async def fail_twice(uid):
            if len(failures) < 2:
                failures.append(uid)
                raise MpimError("the database is away")
            return await conversations(uid)

        monkeypatch.setattr(gateway.services.messages, "conversations", fail_twice)
        monkeypatch.setattr(Session, "push", lambda *push: False)  # the push is lost
        await alice.say({"t": "send", "id": "m1", "to": "bob", "text": "lost on its way"})
        await alice.hear("sent")
        gateway.on_gap(0.5)
        assert (await bob.hear("behind"))["conversations"] == {"alice:bob": 1}

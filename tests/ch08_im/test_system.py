"""The system under traffic, while gateways close and die, lines break and the server stops.

Nothing lost, nothing twice.
"""

import asyncio
import contextlib
import random

import pytest

from mpim_lab.errors import MpimError, ServerFailed
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.system import ImSystem
from mpim_lab.lab.faults.proxy import FaultProxy
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from tests.raw_clients import RawClient, system_options
from tests.support import wait_until

QUICK = GatewayConfig(
    ack_timeout_s=0.5,
    maintenance_interval_s=0.1,
    drain_timeout_s=2.0,
    rate_per_s=2_000,
    burst=2_000,
)
IMPATIENT = ConnectionConfig(
    timeout_s=1.0, connect_timeout_s=1.0, heartbeat_s=1.0, backoff=Backoff(0.02, 0.2)
)


class Traffic:
    """Clients that write to each other, and what each has read.

    `sent` and `got` by (sender, place of writing).
    """

    def __init__(self, mpim, uids, *, group=None, **options):
        self.mpim, self.uids, self.group, self._options = mpim, uids, group, options
        self.clients, self.sent, self.got = {}, {}, {uid: {} for uid in uids}
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        options = {
            "response_timeout_s": 1.0,
            "timeout_s": 40.0,
            "backoff": Backoff(0.02, 0.3),
        } | self._options
        for uid in self.uids:
            self.clients[uid] = await self._stack.enter_async_context(
                self.mpim.client(uid, **options)
            )
            task = asyncio.create_task(self._read(uid, self.clients[uid]))
            self._stack.callback(task.cancel)
        if self.group is not None:
            await self.clients[self.uids[0]].create_group(self.group, *self.uids[1:])
        return self

    async def __aexit__(self, *exc_info):
        await self._stack.aclose()

    async def _read(self, uid, client):
        async for message in client.messages():
            self.got[uid].setdefault((message.sender, message.conversation), []).append(
                message.text
            )

    async def write(self, uid, to, text):
        """Send one, to a user or the group; what was confirmed is noted."""
        client = self.clients[uid]
        sent = await (
            client.send_to_group(to[1:], text) if to.startswith("#") else client.send(to, text)
        )
        self.sent.setdefault((uid, sent.conversation), []).append(text)

    async def write_many(self, uid, to, count, pause_s=0.0):
        """Send many, one after the other."""
        for number in range(count):
            await self.write(uid, to, f"{uid} {to} {number}")
            await asyncio.sleep(pause_s)

    def due(self, uid):
        """What a user is to have read."""
        return {
            key: texts
            for key, texts in self.sent.items()
            if key[0] != uid and (key[1] == f"#{self.group}" or uid in key[1].split(":"))
        }

    async def settled(self, within_s=30.0):
        """Wait until everybody has everything, and a moment longer.

        Nothing lost, nothing twice, in order.
        """
        with contextlib.suppress(AssertionError):  # what is amiss is told below
            await wait_until(lambda: all(self._has_all(uid) for uid in self.uids), within_s)
        await asyncio.sleep(0.3)
        for uid in self.uids:
            assert self.got[uid] == self.due(uid), f"{uid}: {self._difference(uid)}"
            assert self.clients[uid].missing == []

    def _has_all(self, uid):
        return all(
            len(self.got[uid].get(key, [])) >= len(texts) for key, texts in self.due(uid).items()
        )

    def _difference(self, uid):
        told = []
        for key, texts in self.due(uid).items():
            got = self.got[uid].get(key, [])
            told.append(
                (key, "lost", sorted(set(texts) - set(got))[:5], "had", len(got), "of", len(texts))
            )
        return told


@contextlib.asynccontextmanager
async def system(gateways=2, persistence="none", **options):
    """Gateways over a server of their own."""
    given = {"gateway_config": QUICK, "queue_config": IMPATIENT} | options
    async with (
        EmbeddedServer(persistence=persistence) as server,
        ImSystem(server.url, gateways=gateways, **system_options(**given)) as mpim,
    ):
        mpim.server = server  # type: ignore[attr-defined]
        yield mpim


# Gateways that close, and die


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_hundred_clients_go_elsewhere_when_their_gateway_ends(how):
    """Traffic goes on all the time.

    In the end all are at the other one, and each has everything once and in order.
    """
    uids = [f"u{number}" for number in range(100)]
    async with system() as mpim, Traffic(mpim, uids) as traffic:
        writing = [
            asyncio.create_task(traffic.write_many(uid, uids[(number + 1) % 100], 30, pause_s=0.02))
            for number, uid in enumerate(uids)
        ]
        await asyncio.sleep(0.5)
        await (mpim.stop("gw-1") if how == "stop" else mpim.kill("gw-1"))
        await asyncio.gather(*writing)
        await traffic.settled()
        assert {client.gateway for client in traffic.clients.values()} == {"gw-2"}
        assert len(mpim.gateways["gw-2"].sessions) == 100
        assert sum(len(texts) for texts in traffic.sent.values()) == 3_000


async def test_clients_wander_while_one_gateway_after_the_other_is_replaced():
    """A rolling update: each is closed and started again; a group and pairs go on."""
    async with (
        system(gateways=3) as mpim,
        Traffic(mpim, ["ann", "bea", "cyd"], group="tea") as traffic,
    ):
        ports = {name: gateway.port for name, gateway in mpim.gateways.items()}
        writing = [
            asyncio.create_task(traffic.write_many(uid, "#tea", 100, 0.02)) for uid in traffic.uids
        ]
        writing.append(asyncio.create_task(traffic.write_many("ann", "bea", 100, 0.02)))
        for name, port in ports.items():
            await asyncio.sleep(0.3)
            await mpim.stop(name)
            await mpim.start(name, port=port)
        await asyncio.gather(*writing)
        await traffic.settled()


async def test_routes_of_a_gateway_that_died_end_and_renewed_ones_live_on():
    """Ghosts last for a lifetime at most; whoever watches is told, though nobody said good-bye."""
    statuses = []
    async with (
        system(route_ttl_s=1.0) as mpim,
        RawClient(mpim.gateways["gw-1"].url) as ghost,
        mpim.client(
            "alive", at=["gw-2"], on_presence=lambda each: statuses.append((each.uid, each.status))
        ) as alive,
    ):
        await ghost.hello("ghost")
        await alive.watch("ghost")
        await wait_until(lambda: statuses == [("ghost", "online")])
        await mpim.kill("gw-1")
        assert [each.gateway for each in await mpim.services.presence.query_route("ghost")] == [
            "gw-1"
        ]
        await asyncio.sleep(1.3)
        assert await mpim.services.presence.query_route("ghost") == []
        assert [each.gateway for each in await mpim.services.presence.query_route("alive")] == [
            "gw-2"
        ]
        await wait_until(lambda: statuses[1:], within_s=5)
        assert statuses == [("ghost", "online"), ("ghost", "offline")]


async def test_whoever_leaves_while_routes_are_renewed_leaves_no_ghost():
    """A renewal makes routes anew that have ended.

    Not those of clients that have gone in the meantime.
    """
    async with system(gateways=1, route_ttl_s=60.0) as mpim:
        gateway = mpim.gateways["gw-1"]
        presence = gateway.services.presence
        async with RawClient(gateway.url) as raw:
            await raw.hello("brief")
            gateway.maintenance._routes_renewed_at -= 100
            renew = presence.renew

            async def slow_renew(name, routes):
                await raw.ws.close()
                await wait_until(lambda: len(gateway.sessions) == 0)
                await asyncio.sleep(0.1)
                return await renew(name, routes)

            presence.renew = slow_renew
            await gateway.maintenance.renew_routes()
        assert await mpim.services.presence.query_route("brief") == []


# Lines that break


async def test_nothing_is_lost_while_the_lines_between_gateways_and_the_server_are_cut():
    """CLIENT KILL, again and again, while messages flow."""
    async with system() as mpim, Traffic(mpim, ["ann", "bea", "cyd"], group="tea") as traffic:
        writing = [
            asyncio.create_task(traffic.write_many(uid, "#tea", 80, 0.02)) for uid in traffic.uids
        ]
        writing.append(asyncio.create_task(traffic.write_many("cyd", "ann", 80, 0.02)))
        for number in range(8):
            await asyncio.sleep(0.2)
            assert await cut_connections(mpim.url, f"gw-{number % 2 + 1}") == 2
        await asyncio.gather(*writing)
        await traffic.settled()


async def test_nothing_is_lost_while_the_server_is_paused():
    """It answers nothing for 2.5 s, longer than commands wait; then it goes on."""
    async with system() as mpim, Traffic(mpim, ["ann", "bea"], group="tea") as traffic:
        writing = [
            asyncio.create_task(traffic.write_many(uid, "#tea", 60, 0.02)) for uid in traffic.uids
        ]
        writing.append(asyncio.create_task(traffic.write_many("ann", "bea", 60, 0.02)))
        await asyncio.sleep(0.3)
        mpim.server.pause()
        await asyncio.sleep(2.5)
        mpim.server.resume()
        await asyncio.gather(*writing)
        await traffic.settled()


async def test_nothing_is_lost_when_the_server_is_killed_and_comes_back_with_what_it_kept():
    """appendfsync always: what was confirmed is on disk."""
    async with (
        system(persistence="always") as mpim,
        Traffic(mpim, ["ann", "bea", "cyd"], group="tea") as traffic,
    ):
        writing = [
            asyncio.create_task(traffic.write_many(uid, "#tea", 60, 0.02)) for uid in traffic.uids
        ]
        writing.append(asyncio.create_task(traffic.write_many("ann", "bea", 60, 0.02)))
        for _ in range(2):
            await asyncio.sleep(0.4)
            mpim.server.kill()
            await asyncio.sleep(0.3)
            await mpim.server.start()
        await asyncio.gather(*writing)
        await traffic.settled()


async def test_a_gateway_that_is_partitioned_from_the_server_loses_nothing(tmp_path):
    """Its line stays and is silent.

    Its clients send again or wait; what they missed comes when it heals.
    """
    options = system_options(gateway_config=QUICK, queue_config=IMPATIENT)
    options["database"] = f"sqlite+aiosqlite:///{tmp_path / 'mpim.db'}"
    async with EmbeddedServer() as server, FaultProxy(server.url) as proxy:
        near, far = ImSystem(server.url, **options), ImSystem(proxy.url, first=2, **options)
        async with near, far, Traffic(near, ["ann", "bea"]) as traffic, far.client("cyd") as cyd:
            await traffic.write_many("ann", "cyd", 5)
            proxy.partition()
            await traffic.write_many("ann", "cyd", 20)
            sending = asyncio.create_task(cyd.send("ann", "from over there"))
            await asyncio.sleep(1.5)
            proxy.heal()
            await asyncio.wait_for(sending, 20)
            got = [(await asyncio.wait_for(cyd.receive(), 15)).text for _ in range(25)]
            assert got == [f"ann cyd {number}" for number in (*range(5), *range(20))]
            await wait_until(
                lambda: traffic.got["ann"] == {("cyd", "ann:cyd"): ["from over there"]}
            )


# All of it at once


async def _misfortune(mpim, rng, ports):
    """One bad thing; gateways that ended are started again at the same address."""
    name = rng.choice(list(ports))
    match rng.choice(["stop", "kill", "cut", "drop"]):
        case "stop" if name in mpim.gateways:
            await mpim.stop(name)
            await asyncio.sleep(rng.random() * 0.2)
            await mpim.start(name, port=ports[name])
        case "kill" if name in mpim.gateways:
            await mpim.kill(name)
            await asyncio.sleep(rng.random() * 0.2)
            await mpim.start(name, port=ports[name])
        case "cut":
            await cut_connections(mpim.url, name)


async def _flap(traffic, rng, stop):
    while not stop.is_set():
        await asyncio.sleep(rng.random() * 0.3)
        ws = traffic.clients[rng.choice(traffic.uids)].connection._ws
        if ws is not None:
            ws.transport.abort()


@pytest.mark.parametrize("number", range(20))
async def test_under_any_schedule_of_misfortunes_what_was_confirmed_is_read_once_and_in_order(
    number,
):
    """Three gateways, four users, a group.

    Sends, broken connections, gateways that close and die, lines that are cut.
    """
    rng = random.Random(number)
    async with (
        system(gateways=3) as mpim,
        Traffic(mpim, ["ann", "bea", "cyd", "dot"], group="tea") as traffic,
    ):
        ports, stop = {name: each.port for name, each in mpim.gateways.items()}, asyncio.Event()

        async def write(uid):
            for place in range(40):
                to = rng.choice(["#tea", *(each for each in traffic.uids if each != uid)])
                await traffic.write(uid, to, f"{place}")
                await asyncio.sleep(rng.random() * 0.06)

        writing = [asyncio.create_task(write(uid)) for uid in traffic.uids]
        flapping = asyncio.create_task(_flap(traffic, rng, stop))
        for _ in range(5):
            await asyncio.sleep(rng.random() * 0.3)
            await _misfortune(mpim, rng, ports)
        await asyncio.gather(*writing)
        stop.set()
        await flapping
        await traffic.settled()


# The system itself


async def test_a_system_in_a_notebook_has_a_server_of_its_own_that_ends_with_it():
    """And a server that was given is left running."""
    async with MpimSystem(gateways=2) as mpim:
        server = mpim.server
        async with mpim.client("alice") as alice, mpim.client("bob", at=["gw-2"]) as bob:
            await alice.send("bob", "hi")
            assert (await bob.receive()).text == "hi" and bob.gateway == "gw-2"
        assert await mpim.broadcast("hello") == 2
    assert not server.is_running
    async with EmbeddedServer() as own:
        async with MpimSystem(server=own):
            pass
        assert own.is_running


async def test_a_system_that_cannot_start_leaves_nothing_open():
    """No server, or a port that is taken: an error of ours, and no task stays behind."""
    before = len(asyncio.all_tasks())
    with pytest.raises(MpimError):
        async with ImSystem("redis://127.0.0.1:9/0", **system_options(queue_config=IMPATIENT)):
            pass
    async with EmbeddedServer() as server, ImSystem(server.url, **system_options()) as mpim:
        port = mpim.gateways["gw-1"].port
        with pytest.raises(ServerFailed, match="address already in use"):
            await mpim.start("gw-9", port=port)
        assert list(mpim.gateways) == ["gw-1"]
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) == before


async def test_stopping_while_the_server_is_gone_ends_in_time():
    """Nobody waits for ever for a server that does not answer."""
    async with EmbeddedServer() as server:
        mpim = ImSystem(
            server.url, gateways=2, **system_options(gateway_config=QUICK, queue_config=IMPATIENT)
        )
        await mpim.__aenter__()
        clients = [await mpim.client(f"u{number}").__aenter__() for number in range(10)]
        server.kill()
        async with asyncio.timeout(20):
            await mpim.__aexit__(None, None, None)
            await asyncio.gather(*(each.close() for each in clients))

"""A server that syncs every write is killed again and again: what it acknowledged is there, and is handled."""

import asyncio
import random
import shutil

import pytest

from mpim_lab.errors import MpimError
from mpim_lab.lab.server import EmbeddedServer
from mpim_lab.mq.backoff import Backoff
from mpim_lab.mq.limits import Limits
from mpim_lab.mq.pubsub import MessageQueue
from mpim_lab.mq.retry import RetryRule
from tests.conftest import SERVERS, missing
from tests.streams import everything_done, working
from tests.support import wait_until

pytestmark = pytest.mark.timeout(120)

KILLS, TASKS, AFTER_THE_LAST = 20, 6, 30
LIMITS = Limits(timeout_s=2.0, connect_timeout_s=2.0, backoff=Backoff(first_s=0.005, most_s=0.02))
# A kill may swallow a delivery, which counts; none is given up for that
PATIENT = RetryRule(tries=1_000, backoff=Backoff(first_s=0.005, most_s=0.02))


@pytest.fixture(params=list(SERVERS))
async def durable(request):
    """A server that answers an XADD once it is on the disk."""
    binary = SERVERS[request.param]
    if binary is not None and shutil.which(binary) is None:
        missing(f"{binary} is not installed: the same test ran on the embedded Valkey")
    async with EmbeddedServer(binary, persistence="always") as running:
        yield running


class Killer:
    """Kills the server and starts it again when so many adds have been acknowledged as the seed says."""

    def __init__(self, server, seed):
        chance, at = random.Random(seed), 0
        self._server, self._waiting, self.pids = server, [], {server.pid}
        for _ in range(KILLS):
            at += chance.randint(5, 40)
            self._waiting.append(at)
        self.messages = at + AFTER_THE_LAST
        self._one_at_a_time = asyncio.Lock()

    async def after(self, acknowledged):
        """Called after each acknowledged add; whoever reaches the next place kills, the others go on adding."""
        if not self._waiting or acknowledged < self._waiting[0]:
            return
        del self._waiting[0]
        async with self._one_at_a_time:
            self._server.kill()
            await self._server.start()
            self.pids.add(self._server.pid)


async def add_until_told(stream, payload):
    """Repeat what failed, whether it may have been added or not: at least once. Gives the id and the failures."""
    failures = 0
    while True:
        try:
            return await stream.add(payload), failures
        except MpimError:
            failures += 1


async def produce(stream, killer):
    """Several tasks add messages with ids of their own; gives what was acknowledged, by entry id, and the failures."""
    numbers, acknowledged, failures = iter(range(killer.messages)), {}, 0

    async def one_task():
        nonlocal failures
        for number in numbers:
            payload = f"m{number}".encode()
            added, failed = await add_until_told(stream, payload)
            failures += failed
            acknowledged[added] = payload
            await killer.after(len(acknowledged))

    await asyncio.gather(*(one_task() for _ in range(TASKS)))
    return acknowledged, failures


async def test_nothing_acknowledged_is_lost_though_the_server_is_killed_twenty_times(durable):
    """At the end every id that `add` gave is in the stream, with its payload, and was handled at least once."""
    killer, handled = Killer(durable, seed=20), set()
    async with MessageQueue(durable.url, limits=LIMITS) as mq, MessageQueue(durable.url, limits=LIMITS) as other:
        stream = mq.stream("orders")
        group = await other.stream("orders").group("billing")
        async with working(group, lambda entry: handled.add(entry.id), retry=PATIENT):
            first = await stream.add("first")
            await wait_until(lambda: first in handled)  # a worker whose first connection fails does not begin at all
            acknowledged, failures = await produce(stream, killer)
            await wait_until(lambda: set(acknowledged) <= handled)
            await everything_done(group)
        entries = {entry.id: entry.data for entry in await stream.range()}
        letters = await group.dead_letters.count()
    assert len(killer.pids) == KILLS + 1
    assert failures, "no add was under way at any kill: the test shows nothing"
    assert {added: entries.get(added) for added in acknowledged} == acknowledged
    assert set(acknowledged.values()) == {b"m%d" % number for number in range(killer.messages)}
    assert letters == 0

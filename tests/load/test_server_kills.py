"""A server that syncs each write is killed again and again: what it acknowledged is handled."""

import asyncio
import random
import shutil

import pytest

from mpim_lab.errors import MpimError
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.conftest import SERVERS, missing
from tests.streams import everything_done, working
from tests.support import wait_until

pytestmark = pytest.mark.timeout(120)

KILLS, TASKS, AFTER_THE_LAST = 20, 6, 30
LIMITS = ConnectionConfig(
    timeout_s=2.0, connect_timeout_s=2.0, backoff=Backoff(initial_s=0.005, max_s=0.02)
)
# A read of several entries is logged as a transaction. Redis 7.0, when a kill tears one, cuts its
# log behind the MULTI instead of before it; what it acknowledges from then on is in the log of a
# transaction that never ends, and is dropped at the next start
# (https://github.com/valkey-io/valkey/pull/4342). Reads of one entry are no transactions.
PREFETCH = {"valkey": 100, "redis": 1}
# A kill may swallow a delivery, which counts; none is given up for that
PATIENT = RetryPolicy(max_attempts=1_000, backoff=Backoff(initial_s=0.005, max_s=0.02))


@pytest.fixture(params=list(SERVERS))
async def durable(request):
    """A server that answers an XADD once it is on disk, and how many entries a read may have."""
    binary = SERVERS[request.param]
    if binary is not None and shutil.which(binary) is None:
        missing(f"{binary} is not installed: the same test ran on the embedded Valkey")
    # Only a unix socket: while a server is down, its port may become somebody else's
    async with EmbeddedServer(binary, persistence="always", config={"port": "0"}) as running:
        yield running, PREFETCH[request.param]


class Killer:
    """Kill the server and start it again after as many acknowledged adds as the seed says."""

    def __init__(self, server, seed):
        chance, at = random.Random(seed), 0
        self._server, self._waiting, self.pids = server, [], {server.pid}
        for _ in range(KILLS):
            at += chance.randint(5, 40)
            self._waiting.append(at)
        self.messages = at + AFTER_THE_LAST
        self._one_at_a_time = asyncio.Lock()

    async def after(self, acknowledged):
        """Called after each acknowledged add.

        Whoever reaches the next place kills, the others go on adding.
        """
        if not self._waiting or acknowledged < self._waiting[0]:
            return
        del self._waiting[0]
        async with self._one_at_a_time:
            self._server.kill()
            await self._server.start()
            self.pids.add(self._server.pid)


async def add_until_told(stream, payload):
    """Repeat what failed, whether it may have been added or not: at least once.

    Gives the id and the failures.
    """
    failures = 0
    while True:
        try:
            return await stream.add(payload), failures
        except MpimError:
            failures += 1


async def produce(stream, killer):
    """Several tasks add messages with ids of their own.

    Gives what was acknowledged, by entry id, and the failures.
    """
    numbers, acknowledged, failures = iter(range(killer.messages)), {}, 0

    async def one_task():
        nonlocal failures
        for number in numbers:
            payload = f"m{number}".encode()
            added, failed = await add_until_told(stream, payload)
            failures += failed
            acknowledged[added] = payload
            await killer.after(len(acknowledged))

    async with asyncio.TaskGroup() as group:  # a server that does not come back ends them all
        for _ in range(TASKS):
            group.create_task(one_task())
    return acknowledged, failures


async def test_nothing_acknowledged_is_lost_though_the_server_is_killed_twenty_times(durable):
    """At the end every id that `add` gave is in the stream, and was handled at least once."""
    server, batch_size = durable
    killer, handled, url = Killer(server, seed=20), set(), server.unix_url
    async with MessageQueue(url, config=LIMITS) as mq, MessageQueue(url, config=LIMITS) as other:
        stream = mq.stream("orders")
        group = await other.stream("orders").group("billing")
        async with working(
            group, lambda entry: handled.add(entry.id), retry=PATIENT, batch_size=batch_size
        ):
            first = await stream.add("first")
            await wait_until(
                lambda: first in handled
            )  # a worker whose first connection fails does not begin at all
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

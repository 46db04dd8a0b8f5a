"""Candidates: who can publish under load, each set up as its own documentation advises for speed.

A candidate is a context that connects and gives one callable, `publish(channel, payload)`; a
batching one takes a list of payloads. The receiver of all but ours is the bare protocol, so that
they differ in the publisher only; ours receives through its own `MessageQueue.subscribe` and pays
for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mpim_lab.load.redis import batch_adapters as batches
from mpim_lab.load.redis import framework_adapters as peers
from mpim_lab.load.redis import guarantee_adapters as guarantees
from mpim_lab.load.redis import minimal_client
from mpim_lab.load.redis import stream_adapters as streams
from mpim_lab.load.redis.plan import LoadPlan
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow
from mpim_lab.mq.connection.address import Address

Publish = Callable[[str, Any], Awaitable[Any]]
OnPayload = Callable[[bytes], None]


@asynccontextmanager
async def _mpim(plan: LoadPlan) -> AsyncIterator[Publish]:
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        yield mq.publish


@asynccontextmanager
async def _bare(plan: LoadPlan) -> AsyncIterator[Publish]:
    protocol = await minimal_client.connect(plan.url)
    yield protocol.publish
    protocol.transport.close()


@asynccontextmanager
async def _redis_py(plan: LoadPlan) -> AsyncIterator[Publish]:
    """hiredis parser, RESP3, a plain pool with a connection for each task.

    Faster than fewer and a waiting pool.
    """
    import redis.asyncio as redis

    pool: Any = redis.ConnectionPool.from_url(plan.url, max_connections=plan.tasks, protocol=3)
    client = redis.Redis.from_pool(pool)
    yield client.publish
    await client.aclose()


@asynccontextmanager
async def _redis_py_pipelined(plan: LoadPlan) -> AsyncIterator[Publish]:
    """100 commands a pipeline and no MULTI around them.

    A pool of 16, as more connections make it slower.
    """
    import redis.asyncio as redis

    pool: Any = redis.BlockingConnectionPool.from_url(
        plan.url, max_connections=min(plan.tasks, 16), timeout=None, protocol=3
    )
    client = redis.Redis.from_pool(pool)

    async def publish(channel: str, payloads: list[bytes]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for payload in payloads:
            pipeline.publish(channel, payload)
        return await pipeline.execute()

    yield publish
    await client.aclose()


@asynccontextmanager
async def _coredis(plan: LoadPlan) -> AsyncIterator[Publish]:
    """Its defaults: the size of its pool makes no difference; no decoding."""
    import coredis

    async with coredis.Redis.from_url(plan.url, decode_responses=False) as client:
        yield client.publish


@asynccontextmanager
async def _valkey_glide(plan: LoadPlan) -> AsyncIterator[Publish]:
    """One client shared by all tasks, RESP3, as its documentation asks; it multiplexes in Rust."""
    import glide

    address = Address.parse(plan.url)
    credentials = (
        glide.ServerCredentials(address.password, address.username) if address.password else None
    )
    configuration = glide.GlideClientConfiguration(
        [glide.NodeAddress(address.host, address.port)],
        use_tls=address.tls is not None,
        credentials=credentials,
        database_id=address.db,
        request_timeout=20_000,
        inflight_requests_limit=4_096,
    )
    client = await glide.GlideClient.create(configuration)

    def publish(channel: str, payload: bytes) -> Awaitable[int]:
        return client.publish(payload, channel)

    yield publish
    await client.close()


@dataclass(frozen=True)
class Candidate:
    """One candidate: its name, the module it needs, how many messages one call publishes, how it connects."""

    name: str
    module: str
    connect: Callable[[LoadPlan], AbstractAsyncContextManager[Publish]]
    batch: int = 1
    receive: (
        Callable[[LoadPlan, OnPayload], AbstractAsyncContextManager["asyncio.Future[Exception]"]]
        | None
    ) = None
    batches_received: bool = False  # its receiver counts the messages of a loop turn together
    elsewhere: str = ""  # what it writes outside a run's prefix, whatever it is told

    @property
    def prefixes(self) -> bool:
        """Its queue puts the run's prefix before every name.

        The others are given names that have it already.
        """
        return self.name.rpartition(":")[2].startswith("mpim_lab")

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, and what to do about it; None if it can."""
        if find_spec(self.module.partition(".")[0]) is not None:
            return None
        return f"{self.module} is not installed: pip install 'mpim_lab[peers]'"


def _batching(
    name: str, connect: Callable[[LoadPlan], AbstractAsyncContextManager[Publish]], batch: int = 1
) -> Candidate:
    """A candidate of the batching bench.

    All have the same receiver, which unpacks what is packed.
    """
    receive = batches.subscribing if connect in (_mpim, _redis_py_pipelined) else batches.unpacking
    return Candidate(f"batching:{name}", "redis", connect, batch, receive, batches_received=True)


CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate("mpim_lab", "mpim_lab", _mpim, receive=batches.subscribing),
        Candidate("bare protocol", "hiredis", _bare),
        Candidate("redis-py", "redis", _redis_py),
        Candidate("redis-py pipelined", "redis", _redis_py_pipelined, batch=100),
        Candidate("coredis", "coredis", _coredis),
        Candidate("valkey-glide", "glide", _valkey_glide),
        # What follows the colon competes with its like only: publish to a channel, or add to a
        # stream and consume.
        Candidate("streams:mpim_lab", "mpim_lab", streams.mpim, receive=streams.mpim_consuming),
        Candidate(
            "streams:mpim_lab, add_many", "mpim_lab", streams.mpim_many, 100, streams.mpim_consuming
        ),
        Candidate(
            "streams:mpim_lab, no group", "mpim_lab", streams.mpim, receive=streams.mpim_reading
        ),
        Candidate(
            "streams:mpim_lab, + idempotency",
            "mpim_lab",
            guarantees.with_ids,
            receive=guarantees.idempotent,
        ),
        Candidate(
            "streams:mpim_lab, + ordering",
            "mpim_lab",
            guarantees.numbered,
            receive=guarantees.ordered,
        ),
        Candidate(
            "streams:redis-py", "redis", streams.redis_py, receive=streams.redis_py_one_by_one
        ),
        Candidate(
            "streams:redis-py, many at a time",
            "redis",
            streams.redis_py,
            receive=streams.redis_py_consuming,
        ),
        Candidate(
            "streams:redis-py pipelined",
            "redis",
            streams.redis_py_pipelined,
            100,
            streams.redis_py_consuming,
        ),
        Candidate(
            "streams:FastStream pipelined",
            "faststream",
            peers.faststream,
            100,
            peers.faststream_consuming,
        ),
        Candidate(
            "streams:taskiq",
            "taskiq_redis",
            peers.taskiq,
            receive=peers.taskiq_consuming,
            elsewhere="the lock autoclaim:<group>:<stream>",
        ),
        _batching("mpim_lab", batches.with_rule(Adaptive(), many=True), 100),
        _batching("mpim_lab, one by one", batches.with_rule(Adaptive())),
        *(
            _batching(f"mpim_lab, window {ms:g} ms", batches.with_rule(FixedWindow(window_ms=ms)))
            for ms in (0.5, 1, 2, 5, 10, 20)
        ),
        _batching("mpim_lab, not batched", _mpim),
        _batching("redis-py pipelined", _redis_py_pipelined, 100),
    )
}


def candidates_for(bench: str) -> dict[str, Candidate]:
    """Who competes in a bench: name there → candidate."""
    found = {
        name.rpartition(":")[2]: each
        for name, each in CANDIDATES.items()
        if name.rpartition(":")[0] == bench
    }
    return found or {name: each for name, each in CANDIDATES.items() if ":" not in name}


@asynccontextmanager
async def subscribe_with(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator[asyncio.Future[Exception]]:
    """Hand every payload of the plan's channel to `on_payload` while the context lasts.

    Yield the future of its loss.
    """
    if (receive := CANDIDATES[plan.who].receive) is not None:
        async with receive(plan, on_payload) as lost:
            yield lost
        return
    protocol = await minimal_client.connect(plan.url, on_payload)
    protocol.subscribe(plan.channel)
    if (refusal := await protocol.subscribed) is not None:
        raise refusal
    yield protocol.lost
    protocol.transport.close()

"""Candidates: who can publish under load, each set up as its own documentation advises for speed.

A candidate is a context that connects and gives one callable, `publish(channel, payload)`; a
batching one takes a list of payloads. The receiver of all but ours is the bare protocol, so that
they differ in the publisher only; ours receives through its own `MessageQueue.subscribe` and pays
for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from mpim_lab.load.redis.adapters import batching, minimal_client, ours, peers, redis_py
from mpim_lab.load.redis.plan import LoadPlan, OnPayload, Publish
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow

Connect = Callable[[LoadPlan], AbstractAsyncContextManager[Publish]]
# Gives the future of the connection's loss; None where it is never lost.
Receive = Callable[
    [LoadPlan, OnPayload], AbstractAsyncContextManager["asyncio.Future[Exception] | None"]
]


@asynccontextmanager
async def _bare(plan: LoadPlan) -> AsyncIterator[Publish]:
    protocol = await minimal_client.connect(plan.url)
    yield protocol.publish
    protocol.transport.close()


@dataclass(frozen=True)
class Candidate:
    """One candidate: its name, the module it needs, how it connects and receives.

    batch: how many messages one call publishes.
    """

    name: str
    module: str
    connect: Connect
    batch: int = 1
    receive: Receive | None = None
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


def _batching(name: str, connect: Connect, batch: int = 1) -> Candidate:
    """A candidate of the batching bench.

    All have the same receiver, which unpacks what is packed.
    """
    is_packed = connect not in (ours.publishing, redis_py.publishing_pipelined)
    receive: Receive = batching.unpacking if is_packed else ours.subscribing
    return Candidate(f"batching:{name}", "redis", connect, batch, receive, batches_received=True)


CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate("mpim_lab", "mpim_lab", ours.publishing, receive=ours.subscribing),
        Candidate("bare protocol", "hiredis", _bare),
        Candidate("redis-py", "redis", redis_py.publishing),
        Candidate("redis-py pipelined", "redis", redis_py.publishing_pipelined, batch=100),
        Candidate("coredis", "coredis", peers.coredis),
        Candidate("valkey-glide", "glide", peers.valkey_glide),
        # What follows the colon competes with its like only: publish to a channel, or add to a
        # stream and consume.
        Candidate("streams:mpim_lab", "mpim_lab", ours.adding, receive=ours.consuming),
        Candidate("streams:mpim_lab, add_many", "mpim_lab", ours.adding_many, 100, ours.consuming),
        Candidate("streams:mpim_lab, no group", "mpim_lab", ours.adding, receive=ours.reading),
        Candidate(
            "streams:mpim_lab, + idempotency",
            "mpim_lab",
            ours.adding_with_ids,
            receive=ours.consuming_idempotently,
        ),
        Candidate(
            "streams:mpim_lab, + ordering",
            "mpim_lab",
            ours.appending,
            receive=ours.consuming_in_order,
        ),
        Candidate(
            "streams:redis-py", "redis", redis_py.adding, receive=redis_py.consuming_one_by_one
        ),
        Candidate(
            "streams:redis-py, many at a time",
            "redis",
            redis_py.adding,
            receive=redis_py.consuming,
        ),
        Candidate(
            "streams:redis-py pipelined",
            "redis",
            redis_py.adding_pipelined,
            100,
            redis_py.consuming,
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
        _batching("mpim_lab", batching.with_rule(Adaptive(), many=True), 100),
        _batching("mpim_lab, one by one", batching.with_rule(Adaptive())),
        *(
            _batching(f"mpim_lab, window {ms:g} ms", batching.with_rule(FixedWindow(window_ms=ms)))
            for ms in (0.5, 1, 2, 5, 10, 20)
        ),
        _batching("mpim_lab, not batched", ours.publishing),
        _batching("redis-py pipelined", redis_py.publishing_pipelined, 100),
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
) -> AsyncIterator[asyncio.Future[Exception] | None]:
    """Hand every payload of the plan's channel to `on_payload` while the context lasts.

    Yield the future of its loss; None where it is never lost.
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

"""Chapter 7's challenges: first come, first served; and a lease that gives nothing broken back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from mpim_lab.chapters.ch07_pool.designs import PoolContext
from mpim_lab.chapters.ch07_pool.experiment import PoolExperiment
from mpim_lab.chapters.ch07_pool.lease_harness import BackingPool
from mpim_lab.chapters.ch07_pool.pool_harness import LIMIT, SHORT_TIMEOUT_S, PoolHarness, pool_trial
from mpim_lab.lab.exercise.legacy_challenge import Challenge, TrialFailure
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.server.embedded import open_server

TIMEOUT_S = 2.0


async def _one_by_one(harness: PoolHarness) -> None:
    """Connections are used again."""
    for number in range(1, 6):
        await harness.acquire(f"m{number}")
        await harness.expect_holders(f"m{number}")
        await harness.release(f"m{number}")


async def _first_come(harness: PoolHarness) -> None:
    await harness.acquire("m1", "m2", "m3", "m4", "m5")
    await harness.expect_holders("m1", "m2")
    for number in (1, 2, 3):
        await harness.release(f"m{number}")
        await harness.expect_holders(f"m{number + 1}", f"m{number + 2}")


async def _no_barging(harness: PoolHarness) -> None:
    await harness.acquire("m1", "m2", "m3")
    await harness.expect_holders("m1", "m2")
    await harness.release("m1", then_acquires="m4")
    await harness.expect_holders("m2", "m3")
    await harness.release("m2")
    await harness.expect_holders("m3", "m4")


async def _time_limit(harness: PoolHarness) -> None:
    await harness.acquire("m1", "m2")
    await harness.expect_holders("m1", "m2")
    await harness.acquire("m3")
    await harness.expect_refused("m3", "the time limit passes, and it gets no error")
    await harness.release("m1")  # not to m3, who is gone
    await harness.acquire("m4")
    await harness.expect_holders("m2", "m4")


async def _cancelled_in_the_queue(harness: PoolHarness) -> None:
    await harness.acquire("m1", "m2", "m3", "m4")
    await harness.expect_holders("m1", "m2")
    await harness.cancel("m3")
    await harness.release("m1")
    await harness.expect_holders("m2", "m4")


async def _cancelled_at_the_door(harness: PoolHarness) -> None:
    """m3 is given the connection, and is cancelled before it has heard of it."""
    await harness.acquire("m1", "m2", "m3", "m4")
    await harness.expect_holders("m1", "m2")
    await harness.release("m1", then_cancels="m3")
    await harness.expect_holders("m2", "m4")


async def _connecting_fails(harness: PoolHarness) -> None:
    """The place of whoever could not connect is free again, for who waits and for who comes."""
    harness.connects.clear()
    await harness.acquire("m1", "m2", "m3")
    await harness.fail_connecting()
    await harness.expect_refused("m1", "connecting failed, and it gets no error")
    await harness.expect_holders("m2", "m3")


async def _cancelled_while_connecting(harness: PoolHarness) -> None:
    harness.connects.clear()
    await harness.acquire("m1", "m2", "m3")
    await harness.cancel("m1")
    harness.connects.set()
    await harness.expect_holders("m2", "m3")


def first_come_first_served() -> Challenge:
    """A pool's wait queue.

    Bounded, fair, with a time limit, and nothing lost when somebody gives up.
    """
    return Challenge(
        "First come, first served",
        "Write a class with `__init__(self, connect, limit, wait_s)`, `async get(self)` and\n"
        "`put(self, connection)`. `await connect()` opens a connection (it may fail); never more\n"
        f"than `limit` ({LIMIT}) are open, and they are used again. Who waits longest is next,\n"
        "and nobody slips in. After `wait_s` seconds `get` raises PoolTimeout. If connecting\n"
        "fails `get` raises. A caller may be cancelled at any moment: no slot may be lost by that.",
        [
            pool_trial("one after the other", _one_by_one),
            pool_trial("five callers, two connections", _first_come),
            pool_trial(
                "a caller releases and acquires in the same step, while others wait", _no_barging
            ),
            pool_trial(f"the time limit is {SHORT_TIMEOUT_S:g} s", _time_limit, SHORT_TIMEOUT_S),
            pool_trial("a caller in the wait queue is cancelled", _cancelled_in_the_queue),
            pool_trial(
                "a caller is cancelled in the moment in which it is given a connection",
                _cancelled_at_the_door,
            ),
            pool_trial("connecting fails while another one waits", _connecting_fails),
            pool_trial("a caller is cancelled while it is connecting", _cancelled_while_connecting),
        ],
        [
            (
                "Keep a deque of futures, one for each caller in the queue; `put` hands the "
                "connection to the first of them."
            ),
            "Whoever leaves the queue, for whatever reason (except BaseException), takes its\n"
            "future out of it, and hands on what that future was given already.",
            "Hand on a slot, not a connection: who has a slot takes an idle connection or opens\n"
            "one; if that fails, the place is handed on.",
        ],
    )


def _lease_trial(fault: str, seed: int, *, more: int) -> Any:
    """The learner's lease under a fault.

    At most `more` connections may be opened than there are places.
    """

    async def judge(solution: type[Any]) -> Any:
        pools: list[BackingPool] = []
        experiment = PoolExperiment(fault=fault, seed=seed, own=BackingPool.design(solution, pools))
        result = await experiment.run()
        return pools[0].first_violation(result, f"fault {fault!r}, seed {seed}", more)

    return judge


@contextlib.asynccontextmanager
async def _one_connection() -> AsyncIterator[tuple[FaultProxy, BackingPool]]:
    """Yield a pool with one slot, over a proxy that can hold replies."""
    async with open_server() as server, FaultProxy(server.url) as proxy:
        backing_pool = BackingPool(
            PoolContext(proxy.url, connections=1, wait_s=TIMEOUT_S, name="trial")
        )
        try:
            yield proxy, backing_pool
        finally:
            await backing_pool.close()


async def _borrow(
    solution: type[Any], pool: BackingPool, then: Callable[[], Any] | None = None
) -> bool:
    """Return whether a lease yields a connection that answers the question it is asked."""
    async with solution(pool) as connection:
        answer: bytes = await connection.call("ECHO", "me")
        if then is not None:
            await then()
    return answer == b"me"


async def _next_one_has_it(
    solution: type[Any], pool: BackingPool, trial: str
) -> TrialFailure | None:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            is_own = await _borrow(solution, pool)
    except TimeoutError:
        return TrialFailure("the slot of the cancelled caller is not free again", trial)
    return (
        None if is_own else TrialFailure("the next caller was given somebody else's reply", trial)
    )


async def _cancelled_between_two_commands(solution: type[Any]) -> TrialFailure | None:
    trial = "one connection; its caller is cancelled while it computes, with no reply to come"
    async with _one_connection() as (_, backing_pool):
        has_it = asyncio.Event()

        async def compute() -> None:
            has_it.set()
            await asyncio.sleep(60)

        caller = asyncio.create_task(_borrow(solution, backing_pool, compute))
        waiting = asyncio.create_task(has_it.wait())
        await asyncio.wait(
            [caller, waiting], timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        waiting.cancel()
        caller.cancel()
        await asyncio.wait([caller])
        if not caller.cancelled():
            caller.result()
        failure = await _next_one_has_it(solution, backing_pool, trial)
        if failure is None and backing_pool.opened > 1:
            return TrialFailure(
                "a healthy connection was discarded, because its caller was cancelled", trial
            )
        return failure


async def _cancelled_at_the_first_question(solution: type[Any]) -> TrialFailure | None:
    trial = (
        "one idle connection; a caller is cancelled while your lease asks (PING) whether it is "
        "alive"
    )
    async with _one_connection() as (proxy, backing_pool):
        if (failure := await _next_one_has_it(solution, backing_pool, trial)) is not None:
            return failure
        proxy.delay_reply(Match("PING"))
        caller = asyncio.create_task(_borrow(solution, backing_pool))
        await asyncio.wait([caller], timeout=0.3)
        caller.cancel()
        await asyncio.wait([caller])
        proxy.release()
        return await _next_one_has_it(solution, backing_pool, trial)


def give_nothing_broken_back() -> Challenge:
    """A lease: healthy connections come back, the others are discarded and free their slots."""
    trials = [
        ("none", 1, 0),
        ("leak", 1, 0),
        ("cancelled", 1, 1),
        ("broken connection", 1, 1),
        ("idle rot", 1, 3),
    ]
    trials += [("broken connection", 7, 1), ("cancelled", 7, 1)]
    return Challenge(
        "Give nothing broken back",
        "Write a class with `__init__(self, pool)`, `async __aenter__(self)`, which returns a\n"
        "connection, and `async __aexit__(self, kind, error, traceback)`. `await pool.get()`\n"
        "waits for a connection; then either `pool.put(connection)` or\n"
        "`pool.discard(connection)`, which closes it and frees its slot. Callers raise, are\n"
        "cancelled in mid-reply, lose their connection; idle connections are cut. Nobody may be\n"
        "given one that is of no use, none that is healthy may be discarded, and errors are the\n"
        "caller's. `await connection.call(…)` is any command, `connection.unanswered` the\n"
        "number of replies that are still to come.",
        [
            *(_lease_trial(fault, seed, more=more) for fault, seed, more in trials),
            _cancelled_between_two_commands,
            _cancelled_at_the_first_question,
        ],
        [
            (
                "`__aexit__` runs in every case: there each connection must come back, one way "
                "or the other, without awaiting."
            ),
            (
                "An error says nothing about the connection. What it is in the middle of does: "
                "a reply that is still to come."
            ),
            (
                "An idle one may have been cut. Ask it (PING) before you give it out; if that "
                "fails, discard it and get another."
            ),
        ],
    )

"""Chapter 7's challenges: a line that is first come, first served, and a lease that gives nothing broken back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from mpim_lab.chapters.ch07_pool.designs import Setting
from mpim_lab.chapters.ch07_pool.experiment import Callers
from mpim_lab.chapters.ch07_pool.lease_harness import Lender
from mpim_lab.chapters.ch07_pool.pool_harness import LIMIT, SHORT_S, Desk, desk_trial
from mpim_lab.lab.exercise.challenge import Challenge, TrialFailure
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.server.embedded import open_server

PATIENCE_S = 2.0


async def _one_by_one(desk: Desk) -> None:
    """Connections are used again."""
    for number in range(1, 6):
        await desk.come(f"m{number}")
        await desk.must_have(f"m{number}")
        await desk.leave(f"m{number}")


async def _first_come(desk: Desk) -> None:
    await desk.come("m1", "m2", "m3", "m4", "m5")
    await desk.must_have("m1", "m2")
    for number in (1, 2, 3):
        await desk.leave(f"m{number}")
        await desk.must_have(f"m{number + 1}", f"m{number + 2}")


async def _no_barging(desk: Desk) -> None:
    await desk.come("m1", "m2", "m3")
    await desk.must_have("m1", "m2")
    await desk.leave("m1", and_comes="m4")
    await desk.must_have("m2", "m3")
    await desk.leave("m2")
    await desk.must_have("m3", "m4")


async def _time_limit(desk: Desk) -> None:
    await desk.come("m1", "m2")
    await desk.must_have("m1", "m2")
    await desk.come("m3")
    await desk.must_be_refused("m3", "the time limit passes, and nobody tells it so")
    await desk.leave("m1")  # not to m3, who is gone
    await desk.come("m4")
    await desk.must_have("m2", "m4")


async def _cancelled_in_line(desk: Desk) -> None:
    await desk.come("m1", "m2", "m3", "m4")
    await desk.must_have("m1", "m2")
    await desk.cancel("m3")
    await desk.leave("m1")
    await desk.must_have("m2", "m4")


async def _cancelled_at_the_door(desk: Desk) -> None:
    """m3 is given the connection, and is cancelled before it has heard of it."""
    await desk.come("m1", "m2", "m3", "m4")
    await desk.must_have("m1", "m2")
    await desk.leave("m1", and_cancelled="m3")
    await desk.must_have("m2", "m4")


async def _connecting_fails(desk: Desk) -> None:
    """The place of whoever could not connect is free again, for who waits and for who comes."""
    desk.connects.clear()
    await desk.come("m1", "m2", "m3")
    await desk.fail_connecting()
    await desk.must_be_refused("m1", "connecting failed, and nobody tells it so")
    await desk.must_have("m2", "m3")


async def _cancelled_while_connecting(desk: Desk) -> None:
    desk.connects.clear()
    await desk.come("m1", "m2", "m3")
    await desk.cancel("m1")
    desk.connects.set()
    await desk.must_have("m2", "m3")


def first_come_first_served() -> Challenge:
    """A pool's line: bounded, fair, with a time limit, and nothing lost when somebody gives up."""
    return Challenge(
        "First come, first served",
        f"Write a class with `__init__(self, connect, limit, wait_s)`, `async get(self)` and `put(self, connection)`.\n"
        f"`await connect()` opens a connection (it may fail); never more than `limit` ({LIMIT}) are open, and they are used\n"
        "again. Who waits longest is next, and nobody slips in. After `wait_s` seconds in line `get` raises PoolTimeout. If\n"
        "connecting fails `get` raises. A caller may be cancelled at any moment: no place may be lost by that.",
        [
            desk_trial("one after the other", _one_by_one),
            desk_trial("five callers, two connections", _first_come),
            desk_trial("a caller gives back and asks in the same step, while others wait", _no_barging),
            desk_trial(f"the time limit is {SHORT_S:g} s", _time_limit, SHORT_S),
            desk_trial("a caller in line is cancelled", _cancelled_in_line),
            desk_trial("a caller is cancelled in the moment in which it is given a connection", _cancelled_at_the_door),
            desk_trial("connecting fails while another one waits", _connecting_fails),
            desk_trial("a caller is cancelled while it is connecting", _cancelled_while_connecting),
        ],
        [
            "Keep a deque of futures, one for each caller in line; `put` gives the connection to the first of them.",
            "Whoever leaves the line, for whatever reason (except BaseException), takes its future out of it, and hands on\n"
            "what that future was given already.",
            "Hand on a place, not a connection: who has a place takes an idle connection or opens one; if that fails, the\n"
            "place is handed on.",
        ],
    )


def _lease_trial(fault: str, seed: int, *, more: int) -> Any:
    """The learner's lease under a fault; at most `more` connections may be opened than there are places."""

    async def judge(solution: type[Any]) -> Any:
        lenders: list[Lender] = []
        experiment = Callers(fault=fault, seed=seed, own=Lender.design(solution, lenders))
        result = await experiment.run()
        return lenders[0].complaint(result, f"fault {fault!r}, seed {seed}", more)

    return judge


@contextlib.asynccontextmanager
async def _one_connection() -> AsyncIterator[tuple[FaultProxy, Lender]]:
    """A pool with one place, over a line that can be held."""
    async with open_server() as server, FaultProxy(server.url) as line:
        lender = Lender(Setting(line.url, connections=1, wait_s=PATIENCE_S, name="trial"))
        try:
            yield line, lender
        finally:
            await lender.close()


async def _borrow(solution: type[Any], pool: Lender, then: Callable[[], Any] | None = None) -> bool:
    """Whether a lease gives a connection that answers the question it is asked."""
    async with solution(pool) as connection:
        answer: bytes = await connection.call("ECHO", "me")
        if then is not None:
            await then()
    return answer == b"me"


async def _next_one_has_it(solution: type[Any], pool: Lender, trial: str) -> TrialFailure | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            is_own = await _borrow(solution, pool)
    except TimeoutError:
        return TrialFailure("the place of the cancelled caller is not free again", trial)
    return None if is_own else TrialFailure("the next caller was given somebody else's reply", trial)


async def _cancelled_between_two_commands(solution: type[Any]) -> TrialFailure | None:
    trial = "one connection; its caller is cancelled while it computes, with no reply to come"
    async with _one_connection() as (_, lender):
        has_it = asyncio.Event()

        async def compute() -> None:
            has_it.set()
            await asyncio.sleep(60)

        caller = asyncio.create_task(_borrow(solution, lender, compute))
        waiting = asyncio.create_task(has_it.wait())
        await asyncio.wait([caller, waiting], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        caller.cancel()
        await asyncio.wait([caller])
        if not caller.cancelled():
            caller.result()
        failure = await _next_one_has_it(solution, lender, trial)
        if failure is None and lender.opened > 1:
            return TrialFailure("a healthy connection was discarded, because its caller was cancelled", trial)
        return failure


async def _cancelled_at_the_first_question(solution: type[Any]) -> TrialFailure | None:
    trial = "one idle connection; a caller is cancelled while your lease asks (PING) whether it is alive"
    async with _one_connection() as (line, lender):
        if (failure := await _next_one_has_it(solution, lender, trial)) is not None:
            return failure
        line.delay_reply(Match("PING"))
        caller = asyncio.create_task(_borrow(solution, lender))
        await asyncio.wait([caller], timeout=0.3)
        caller.cancel()
        await asyncio.wait([caller])
        line.release()
        return await _next_one_has_it(solution, lender, trial)


def give_nothing_broken_back() -> Challenge:
    """A lease: healthy connections come back, the others are discarded, and their places are free again."""
    trials = [("none", 1, 0), ("leak", 1, 0), ("cancelled", 1, 1), ("broken connection", 1, 1), ("idle rot", 1, 3)]
    trials += [("broken connection", 7, 1), ("cancelled", 7, 1)]
    return Challenge(
        "Give nothing broken back",
        "Write a class with `__init__(self, pool)`, `async __aenter__(self)`, which gives a connection, and\n"
        "`async __aexit__(self, kind, error, traceback)`. `await pool.get()` waits for a connection; then either\n"
        "`pool.put(connection)` or `pool.discard(connection)`, which closes it and frees its place. Callers raise, are\n"
        "cancelled in the middle of a reply, lose their line; idle connections are cut. Nobody may be given one that is of\n"
        "no use, none that is healthy may be discarded, and errors are the caller's. `await connection.call(…)` is any\n"
        "command, `connection.unanswered` the number of replies that are still to come.",
        [
            *(_lease_trial(fault, seed, more=more) for fault, seed, more in trials),
            _cancelled_between_two_commands,
            _cancelled_at_the_first_question,
        ],
        [
            "`__aexit__` runs in every case: there each connection must come back, one way or the other, without awaiting.",
            "An error says nothing about the connection. What it is in the middle of does: a reply that is still to come.",
            "An idle one may have been cut. Ask it (PING) before you give it out; if that fails, discard it and get another.",
        ],
    )

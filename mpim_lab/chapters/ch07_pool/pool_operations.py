"""Operations on a learner's pool, in virtual time: the inputs of `first_come_first_served`.

An input is a limit, the time for which a caller may wait, and a list of operations on callers.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from mpim_lab.chapters.ch07_pool.pool_model import CONNECT_ERRORS, PoolModel, error_text, now_s
from mpim_lab.lab.exercise.solution import Violation
from mpim_lab.lab.exercise.virtual_time import Deadlock, run_virtual
from mpim_lab.lab.trace.trace import Trace

SLOW_S = 0.3  # a slow connect takes a multiple of this
TIE_S = 5e-10  # timers that are so close fall into the same iteration of the event loop

Operation = tuple[Any, ...]
Operations = tuple[int, float, Sequence[Operation]]


async def _operate(model: PoolModel, name: str, *arguments: Any) -> None:
    """Do one operation; one for which there is nobody is left out."""
    first, second, *_ = [*arguments, 0, 0]
    if name == "get":
        for _ in range(first):
            model.ask()
    elif name == "connecting":
        model.connect_takes_s, model.connect_error = arguments
    elif name == "pass":
        await asyncio.sleep(first)
    elif name == "cancel":
        await _cancel(model, first)
    elif name == "put all":
        for each in list(model.holders):
            await model.release(each)
    elif name == "cancel and put":
        await _cancel(model, second)
        await _release(model, first)
    elif name in ("put", "put and cancel"):
        await _release(model, first)
        if name == "put and cancel":
            await _cancel(model, second)
    elif name == "put and get":
        if (holder := model.holder(first)) is not None:
            model.ask(first=holder)
    elif name == "put as the time is up":
        holder, waiting = model.holder(first), model.waiting()
        if holder is not None and waiting is not None and now_s() < waiting.deadline_s:
            model.release_at(waiting.deadline_s + second * TIE_S, holder)
            await asyncio.sleep(waiting.deadline_s - now_s())
    await model.settle()


async def _release(model: PoolModel, place: int) -> None:
    if (holder := model.holder(place)) is not None:
        await model.release(holder)


async def _cancel(model: PoolModel, place: int) -> None:
    if (caller := model.waiting(place)) is not None:
        model.cancel(caller)


async def _finish(model: PoolModel) -> None:
    """Let all get their turn; then all slots must be there, and the last one must be handed on."""
    model.connect_takes_s, model.connect_error = 0.0, ""
    while model.pending or model.holders:
        await _operate(model, "put all")
        await _operate(model, "pass", SLOW_S)
    await _operate(model, "get", model.limit + 1)
    await _operate(model, "put", 0)
    await _operate(model, "put all")


async def _play(solution: type[Any], given: Operations, trace: Trace) -> None:
    limit, wait_s, operations = given
    model, other = (PoolModel(solution, limit, wait_s, trace, letter) for letter in "mx")
    await _operate(other, "get", 1)
    await _operate(other, "put", 0)
    for name, *arguments in operations:
        await _operate(model, name, *arguments)
    await _finish(model)
    await _finish(other)


def play_pool(solution: type[Any], given: Operations, trace: Trace) -> None:
    """Do the operations on one pool, with another one of the same class beside it."""
    try:
        run_virtual(_play(solution, given, trace))
    except (Deadlock, TimeoutError) as error:
        raise Violation(f"the pool comes to no end: {error_text(error)}", 4) from error


_PLACES = st.integers(0, 3)
_OPERATIONS = st.one_of(
    st.tuples(st.just("get"), st.integers(1, 3)),
    st.tuples(st.just("put"), _PLACES),
    st.tuples(st.just("put and get"), _PLACES),
    st.tuples(st.just("put and cancel"), _PLACES, st.sampled_from((0, 0, 1, 2))),
    st.tuples(st.just("cancel and put"), _PLACES, st.sampled_from((0, 0, 1, 2))),
    st.tuples(st.just("cancel"), _PLACES),
    st.tuples(st.just("put as the time is up"), _PLACES, st.sampled_from((-1, 0, 1))),
    st.tuples(
        st.just("connecting"),
        st.sampled_from((0, SLOW_S, 4 * SLOW_S)),
        st.sampled_from(("", "", *CONNECT_ERRORS)),
    ),
    st.tuples(st.just("pass"), st.sampled_from((SLOW_S, 1.0, 3.5))),
    st.tuples(st.just("put all")),
)
INPUTS = st.tuples(
    st.integers(1, 3), st.sampled_from((2.5, 5.0, 30.0)), st.lists(_OPERATIONS, max_size=14)
)
KNOWN: list[Operations] = [
    (2, 30.0, [("get", 1), ("put", 0), ("get", 1), ("put", 0)]),
    (2, 30.0, [("get", 5), ("put", 0), ("put", 0), ("put", 0)]),
    (2, 30.0, [("get", 3), ("put and get", 0), ("put", 0)]),
    (1, 30.0, [("get", 1), ("get", 2), ("put and get", 0), ("put and get", 0)]),
    (2, 2.5, [("get", 3), ("pass", 3.5), ("put", 0), ("get", 1)]),
    (2, 30.0, [("get", 4), ("cancel", 0), ("put", 0)]),
    (2, 30.0, [("get", 4), ("put and cancel", 0, 0)]),
    (2, 30.0, [("get", 4), ("cancel and put", 0, 0)]),
    (1, 2.5, [("get", 2), ("put as the time is up", 0, -1), ("get", 1)]),
    (1, 2.5, [("get", 2), ("put as the time is up", 0, 1), ("get", 1)]),
    (2, 30.0, [("connecting", SLOW_S, "fails"), ("get", 3), ("pass", 1.0), ("get", 3)]),
    (2, 30.0, [("connecting", SLOW_S, "times out"), ("get", 1), ("pass", 1.0)]),
    (2, 30.0, [("connecting", SLOW_S, "fails oddly"), ("get", 2), ("pass", 1.0)]),
    (2, 30.0, [("connecting", SLOW_S, ""), ("get", 3), ("cancel", 0), ("pass", 1.0)]),
    (2, 2.5, [("get", 1), ("connecting", 4 * SLOW_S, ""), ("get", 1), ("put", 0), ("get", 1)]),
    (2, 30.0, [("get", 2), ("put all",), ("get", 2), ("put all",), ("get", 1), ("get", 1)]),
]

"""Sending: an open loop, paced by a rate, and a closed one, paced by the answers."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from mpim_lab.events import now
from mpim_lab.load.gateway.client import Client
from mpim_lab.load.redis.ticker import precise_interval

TICK_S = 0.001
ANSWER_TIMEOUT_S = 10.0
SendOne = Callable[[int, int, float], None]  # which client of ours, which message, when it was due


async def send_open_loop(
    send: SendOne,
    clients: int,
    own: tuple[int, int],
    *,
    per_s: float,
    seconds: float,
    start_at: float,
) -> int:
    """Each client in turn sends the next message when it is due.

    Gives how many were sent: all that were due.

    The messages of all processes make one schedule; `own`: the first of this one, and every how
    many-th after it. They are due in small bursts, one a millisecond, as a busy gateway gets them
    in turns of its loop.
    """
    first, step = own
    total = int(per_s * seconds)
    sent, done = 0, asyncio.get_running_loop().create_future()

    def tick() -> None:
        nonlocal sent
        due_now = now()
        while (number := first + sent * step) < total:
            due = start_at + TICK_S * int(number / per_s / TICK_S)
            if due > due_now:
                return
            send(sent % clients, number, due)
            sent += 1
        if not done.done():
            done.set_result(None)

    with precise_interval(tick, start_at, TICK_S):
        await done
    return sent


async def send_closed_loop(
    send: SendOne,
    clients: Sequence[Client],
    own: tuple[int, int],
    *,
    in_flight: int,
    seconds: float,
    start_at: float,
) -> tuple[int, int]:
    """Each client keeps `in_flight` messages unanswered until the time is up.

    Gives how many were sent and answered.

    It waits for the last answers, but not for ever.
    """
    first, step = own
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, start_at - now()))
    sent = answered = 0
    end_at, done = start_at + seconds, loop.create_future()

    def send_next(place: int) -> None:
        nonlocal sent
        send(place, first + sent * step, now())
        sent += 1

    def answer_to(place: int) -> Callable[[], None]:
        def on_answer() -> None:
            nonlocal answered
            answered += 1
            if now() < end_at:
                send_next(place)
            elif answered >= sent and not done.done():
                done.set_result(None)

        return on_answer

    for place, client in enumerate(clients):
        client.on_answer = answer_to(place)
        for _ in range(in_flight):
            send_next(place)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(end_at - now() + ANSWER_TIMEOUT_S):
            await done
    return sent, answered

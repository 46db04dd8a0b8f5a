"""Traffic: the swarm's clients write to one another.

Each method is an order of the parent's, and gives what it found.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.events import now
from mpim_lab.latency_histogram import LatencyHistogram
from mpim_lab.load.gateway.client import Client
from mpim_lab.load.gateway.swarm import ClientSwarm, Found, spread
from mpim_lab.load.redis.ticker import precise_interval

MAX_MESSAGES = 10_000_000
TICK_S = 0.001
ANSWER_TIMEOUT_S = 10.0
# Which client of ours, which message, when it was due.
SendOne = Callable[[int, int, float], None]


def message_text(phase: str, due: float, number: int, size: int) -> str:
    """A message's text.

    To which phase it belongs, when it was due, and which it is, filled up to `size` characters.

    >>> message_text("steady", 12.5, 7, 24)
    'steady 12.500000 7 xxxxx'
    """
    return f"{phase} {due:.6f} {number} ".ljust(size, "x")


class DeliveryCounter:
    """Counts the messages of one phase.

    A latency runs from the moment a message was due to its handler.

    >>> counter = DeliveryCounter()
    >>> counter.begin("steady")
    >>> for text in ("steady 1.0 0 xx", "steady 1.0 0 xx", "warm-up 1.0 1 xx"):
    ...     counter.add(text, at=1.5)
    >>> counter.received, counter.duplicates
    (1, 1)
    """

    def __init__(self) -> None:
        self.begin("")

    def begin(self, phase: str) -> None:
        """Forget what was; messages of other phases do not count."""
        self._phase, self._seen = phase, bytearray()
        self.received, self.duplicates, self.last_at = 0, 0, 0.0
        self.latencies = LatencyHistogram()

    def add(self, text: str, at: float | None = None) -> None:
        """Count one message."""
        at = now() if at is None else at
        phase, due, number, _ = text.split(" ", 3)
        if phase != self._phase:
            return
        place, seen = int(number), self._seen
        if place >= len(seen):
            if place >= MAX_MESSAGES:
                return
            seen.extend(bytes(place + 1 - len(seen) + 4_096))
        if seen[place]:
            self.duplicates += 1
            return
        seen[place] = 1
        self.received += 1
        self.last_at = at
        self.latencies.add(at - float(due))

    def found(self) -> dict[str, Any]:
        """What was counted, as it can be put into a line and merged with another process's."""
        return {
            "received": self.received,
            "duplicates": self.duplicates,
            "last_at": self.last_at,
            "counts": self.latencies.counts,
            "max_s": self.latencies.max_s,
        }


class Traffic:
    """One-to-one messages of one process, and the count of those that arrive there."""

    def __init__(self, swarm: ClientSwarm) -> None:
        self._swarm, self._plan = swarm, swarm.plan
        self._counter, self._phase, self._answered = DeliveryCounter(), "", 0

    async def begin(self, phase: str) -> Found:
        """From now on count the messages of this phase; every process before any sends."""
        self._phase, self._answered = phase, 0
        self._counter.begin(phase)
        for client in self._swarm.clients:
            client.on_pushed, client.on_answer = self._counter.add, self._on_answer
        return {}

    def _on_answer(self) -> None:
        self._answered += 1

    async def steady(self, per_s: float, seconds: float, start_at: float) -> Found:
        """This process's share of `per_s` messages a second.

        Each client in turn writes to its partner.
        """
        cpu_s, own = time.process_time(), (self._plan.part, self._plan.parts)
        places = range(len(self._swarm.clients))
        order = {"per_s": per_s, "seconds": seconds, "start_at": start_at}
        sent = await send_open_loop(self._sender(places), len(places), own, **order)
        return {"sent": sent, "seconds": now() - start_at, "cpu_s": time.process_time() - cpu_s}

    async def closed(self, senders: int, in_flight: int, seconds: float, start_at: float) -> Found:
        """`senders` clients of this process, each with `in_flight` unanswered messages."""
        places: list[int] = spread(senders, range(len(self._swarm.clients)))
        clients = [self._swarm.clients[place] for place in places]
        cpu_s, own = time.process_time(), (self._plan.part, self._plan.parts)
        order = {"seconds": seconds, "start_at": start_at}
        sent, self._answered = await send_closed_loop(
            self._sender(places), clients, own, in_flight=in_flight, **order
        )
        return {"sent": sent, "cpu_s": time.process_time() - cpu_s}

    def _sender(self, places: Sequence[int]) -> Callable[[int, int, float], None]:
        plan, phase = self._plan, self._phase
        pairs = [
            (self._swarm.clients[place], plan.uid(plan.partner(plan.mine[place])))
            for place in places
        ]

        def send(turn: int, number: int, due: float) -> None:
            client, to = pairs[turn]
            client.send(
                client.protocol.send(
                    f"{phase}-{number}", to, message_text(phase, due, number, plan.text_bytes)
                )
            )

        return send

    async def count(self, whole: bool = False) -> Found:
        """Return how many messages of the phase arrived, and were answered; `whole`: and how late.

        Raises LoadFailed if a client was cut off.
        """
        self._swarm.check()
        return (
            self._counter.found()
            if whole
            else {"received": self._counter.received, "answered": self._answered}
        )


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

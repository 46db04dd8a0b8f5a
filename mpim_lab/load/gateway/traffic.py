"""Traffic: the swarm's clients write to one another.

Each method is an order of the parent's, and gives what it found.
"""

import time
from collections.abc import Callable, Sequence

from mpim_lab.events import now
from mpim_lab.load.gateway.delivery_counter import DeliveryCounter, message_text
from mpim_lab.load.gateway.sending import send_closed_loop, send_open_loop
from mpim_lab.load.gateway.swarm import ClientSwarm, Found, spread


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

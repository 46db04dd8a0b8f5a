"""Gateway round: one candidate, through all cases once."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

from mpim_lab.bench.gateway.cases import CONNECT, NOTICE, WARM_UP, GatewaySchedule, closed_case
from mpim_lab.bench.gateway.servers import GatewayServer, resident_bytes, spent_s
from mpim_lab.bench.rows import Row
from mpim_lab.events import now
from mpim_lab.latency_histogram import LatencyHistogram
from mpim_lab.load.gateway.plan import SwarmPlan
from mpim_lab.load.gateway.swarm_process import SwarmProcess

BEGIN_IN_S, POLL_EVERY_S = 0.05, 0.01
QUIET_CORES, QUIET_EVERY_S, QUIET_TIMEOUT_S = 0.1, 0.2, 10.0
ARRIVAL_TIMEOUT_S = 5.0  # of silence: what has not come by then is lost
KEPT_UP = 0.95  # of what was offered, received until the last one came
KIB = 1024
Found = dict[str, Any]


class GatewayRound:
    """A server, and processes of clients that are connected to it.

    Every case is a method that gives a row's numbers.
    """

    def __init__(
        self, server: GatewayServer, swarms: list[SwarmProcess], schedule: GatewaySchedule
    ) -> None:
        self._server, self._swarms, self._schedule = server, swarms, schedule
        self._phases = 0

    async def cases(self) -> AsyncGenerator[tuple[str, Row], None]:
        """Run all, one after another: each one's name and numbers.

        Raises LoadFailed, ServerFailed.
        """
        schedule = self._schedule
        yield CONNECT, await self.connect()
        yield schedule.steady_case, await self.steady()
        for senders, in_flight in schedule.closed:
            yield closed_case(senders, in_flight), await self.closed(senders, in_flight)
        yield NOTICE, await self.notices()
        yield schedule.group_case, await self.group()
        self._server.check()

    async def connect(self) -> Row:
        """How long it takes to connect all, and how much of the server's memory each takes."""
        clients = self._schedule.clients
        first = min(WARM_UP, clients // len(self._swarms) // 2)
        await self._ask_all("connect", up_to=first, timeout_s=30.0)
        await self._quiet()
        before = resident_bytes(self._server.pid)
        with self._spending() as spent:
            found = await self._ask_all("connect", up_to=clients, timeout_s=120.0)
        seconds = max(each["ended_at"] for each in found) - min(
            each["started_at"] for each in found
        )
        await self._quiet()
        after, more = resident_bytes(self._server.pid), clients - first * len(self._swarms)
        memory = None if before is None or after is None else max(after - before, 0) / more / KIB
        row = {
            "clients": clients,
            "seconds": seconds,
            "connects_per_s": more / seconds,
            "memory_kib": memory,
        }
        return row | self._shares(spent, found, seconds)

    # One to one

    async def steady(self) -> Row:
        """Messages are due at a rate, whatever the answers do."""
        schedule = self._schedule
        rate, seconds = schedule.offered_per_s, schedule.steady_s
        row = await self._talk("steady", seconds, per_s=rate)
        return row | {
            "loop": "open",
            "offered_per_s": rate,
            "kept_up": row["messages_per_s"] >= KEPT_UP * rate,
        }

    async def closed(self, senders: int, in_flight: int) -> Row:
        """Each of `senders` writes again as soon as a message of its own was answered."""
        share = max(1, senders // len(self._swarms))
        row = await self._talk(
            "closed", self._schedule.closed_s, senders=share, in_flight=in_flight
        )
        return row | {"loop": "closed", "tasks": senders, "in_flight": in_flight}

    async def _talk(self, do: str, seconds: float, **order: Any) -> Row:
        self._phases += 1
        await self._ask_all("begin", phase=f"{do}{self._phases}")
        start_at = now() + BEGIN_IN_S
        with self._spending() as spent:
            sent = await self._ask_all(do, seconds=seconds, start_at=start_at, **order)
            total = sum(each["sent"] for each in sent)
            await self._arrived("count", "received", total)
        took = now() - start_at
        answered = await self._arrived("count", "answered", total)
        counts = await self._ask_all("count", whole=True)
        received = sum(count["received"] for count in counts)
        last_at = max(count["last_at"] for count in counts)
        rate = received / (last_at - start_at) if received else 0.0
        counted = {"sent": total, "received": received, "lost": total - received}
        counted["unanswered"] = total - sum(each["answered"] for each in answered)
        counted["duplicates"] = sum(count["duplicates"] for count in counts)
        await self._quiet()
        return {"messages_per_s": rate, **counted, **_percentiles(counts)} | self._shares(
            spent, sent, took
        )

    # To many

    async def notices(self) -> Row:
        """From the asking for a notice until the last client has it."""
        return await self._announcements("notice", self._schedule.notices, self._schedule.clients)

    async def group(self) -> Row:
        """From the sending of a message until the last member has it.

        The members are spread over all clients.
        """
        clients, count = self._schedule.clients, min(self._schedule.members, self._schedule.clients)
        members = [place * clients // count for place in range(count)]
        made = await self._swarms[0].ask("create_group", group="g", members=members)
        joiners = members[made["count"] or 1 :]
        for swarm in self._swarms:
            await swarm.ask("join_group", group="g", members=joiners)
        order = {"group": "g", "member": members[0]}
        return await self._announcements(
            "send_group", self._schedule.group_messages, count - 1, **order
        )

    async def _announcements(self, do: str, times: int, audience: int, **order: Any) -> Row:
        took = []
        reached = audience
        for _ in range(times):
            self._phases += 1
            text = f"{do}-{self._phases}"
            await self._ask_all("listen", text=text)
            sent_at = (await self._swarms[0].ask(do, text=text, **order))["sent_at"]
            found = await self._arrived("reached", "reached", audience)
            took.append(max(each["last_at"] for each in found) - sent_at)
            reached = min(reached, sum(each["reached"] for each in found))
        return {
            "seconds": median(took),
            "slowest_s": max(took),
            "clients": audience,
            "lost": audience - reached,
        }

    # Common to all

    async def _ask_all(self, do: str, timeout_s: float = 60.0, **order: Any) -> list[Found]:
        """All processes at once; one that fails is not waited for by the others."""
        try:
            async with asyncio.TaskGroup() as group:
                asked = [
                    group.create_task(swarm.ask(do, timeout_s=timeout_s, **order))
                    for swarm in self._swarms
                ]
        except ExceptionGroup as errors:
            self._server.check()
            raise errors.exceptions[0] from None
        return [task.result() for task in asked]

    async def _arrived(self, do: str, column: str, wanted: int) -> list[Found]:
        """Look until all have arrived, or nothing has for a while."""
        seen, last_change = -1, now()
        while True:
            found = await self._ask_all(do)
            count = sum(each[column] for each in found)
            if count != seen:
                seen, last_change = count, now()
            if count >= wanted or now() - last_change > ARRIVAL_TIMEOUT_S:
                return found
            await asyncio.sleep(POLL_EVERY_S)

    async def _quiet(self) -> None:
        """Wait until the server has nothing to do any more.

        The next case is not to begin with this one's backlog.
        """
        give_up_at, before = now() + QUIET_TIMEOUT_S, spent_s(self._server.pid)
        while now() < give_up_at:
            await asyncio.sleep(QUIET_EVERY_S)
            spent = spent_s(self._server.pid)
            if before is None or spent is None or spent - before < QUIET_CORES * QUIET_EVERY_S:
                return
            before = spent

    @contextlib.contextmanager
    def _spending(self) -> Iterator[dict[str, float]]:
        """CPU seconds of the server while the context lasts."""
        spent: dict[str, float] = {}
        before = spent_s(self._server.pid)
        yield spent
        after = spent_s(self._server.pid)
        if before is not None and after is not None:
            spent["server"] = after - before

    def _shares(self, spent: dict[str, float], found: list[Found], seconds: float) -> Row:
        """How much of one core the server took, and the clients' processes together."""
        server = spent.get("server")
        return {
            "server_cpu": None if server is None else server / seconds,
            "load_cpu": sum(each["cpu_s"] for each in found) / seconds,
        }


def _percentiles(counts: list[Found]) -> Row:
    merged = LatencyHistogram()
    for count in counts:
        merged.merge(LatencyHistogram(count["counts"], count["max_s"]))
    named = {f"p{round(100 * share)}_ms": merged.percentile_ms(share) for share in (0.5, 0.9, 0.99)}
    return {**named, "max_ms": merged.max_s * 1e3}


@contextlib.asynccontextmanager
async def start_swarms(
    server: GatewayServer, redis_url: str, schedule: GatewaySchedule
) -> AsyncIterator[list[SwarmProcess]]:
    """Processes that hold the clients, a like part each; gone with the context."""
    plan = SwarmPlan(
        server.candidate.protocol,
        server.port,
        schedule.clients,
        parts=schedule.processes,
        secret=server.secret,
        redis_url=redis_url,
        prefix=server.prefix,
    )
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(SwarmProcess(replace(plan, part=part)))
            for part in range(plan.parts)
        ]

"""`mpim-lab bench gateway`: thousands of connected clients, ours beside python-socketio and socket.io on Node.

Each candidate is one server process, with Redis beside it as its documentation wants it. The
clients live in processes of their own, half of them in each, and write to clients in the other
half. A candidate has a Redis of its own in each round.

| case           | seconds               | messages_per_s | besides                                              |
|----------------|-----------------------|----------------|------------------------------------------------------|
| connect        | until all are         |                | memory_kib: the server's process grew, a connection  |
| 5,000 msg/s    |                       | handed over    | latency from due to handled, lost                    |
| 200 × 8        |                       | handed over    | 200 clients write, 8 unanswered messages each        |
| notice to all  | until the last has it |                | slowest_s: of several                                |
| group of 1,000 | until the last has it |                | slowest_s: of several                                |

messages_per_s: messages that a receiving client has, over the time from the beginning to the last
    receipt. server_cpu and
load_cpu: cores in use by the server and by the clients' processes: a load that takes a core a
process would be the limit.
"""

import asyncio
import functools
import resource
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from mpim_lab.bench.gateway.cases import GatewaySchedule
from mpim_lab.bench.gateway.peers.node import node_version
from mpim_lab.bench.gateway.round import GatewayRound, start_swarms
from mpim_lab.bench.gateway.servers import CANDIDATES, GatewayServer
from mpim_lab.bench.gateway_rows import gateway_rows
from mpim_lab.bench.machine import describe_machine, package_version
from mpim_lab.bench.rounds import reason_of
from mpim_lab.bench.rows import Row
from mpim_lab.errors import LoadFailed, MpimError
from mpim_lab.lab.server.embedded import open_server

FILES_BESIDES = 100  # that a server has open for itself
PEER_PACKAGES = ("python-socketio", "python-engineio", "uvicorn", "websockets")
Tell = Callable[[str], None]


async def bench_gateway(
    schedule: GatewaySchedule,
    tell: Tell = lambda text: None,
    *,
    whos: Sequence[str] = tuple(CANDIDATES),
) -> dict[str, Any]:
    """Run everybody who is installed through all cases, round by round.

    Gives `{"machine": …, "rows": …}`.

    Raises LoadFailed when this system does not let a process have so many connections.
    """
    _allow_connections(schedule.clients)
    async with open_server() as server:
        machine = await describe_machine(server.url)
    packages = {name: version for name in PEER_PACKAGES if (version := package_version(name))}
    machine["packages"] |= packages | ({"node": node} if (node := node_version()) else {})
    missing = {who: await asyncio.to_thread(CANDIDATES[who].missing) for who in whos}
    present = [who for who in whos if missing[who] is None]
    found = [
        _row(who, case, reason=reason)
        for who, reason in missing.items()
        if reason
        for case in schedule.cases
    ]
    for round_ in range(schedule.rounds):
        for place in range(len(present)):
            who = present[(place + round_) % len(present)]
            found += await _through_all_cases(
                who, schedule, functools.partial(_tell_round, tell, round_ + 1)
            )
    return {"machine": machine, "rows": gateway_rows(found, schedule.cases, whos)}


def _tell_round(tell: Tell, round_: int, text: str) -> None:
    tell(f"round {round_} · {text}")


async def _through_all_cases(who: str, schedule: GatewaySchedule, tell: Tell) -> list[Row]:
    """One candidate's rows of one round; what comes after an error has its reason."""
    rows: list[Row] = []
    async with open_server() as redis:
        server = GatewayServer(CANDIDATES[who], redis.url, redis.prefix)
        try:
            async with (
                server,
                start_swarms(server, redis.url, schedule) as swarms,
                aclosing(GatewayRound(server, swarms, schedule).cases()) as cases,
            ):
                async for case, numbers in cases:
                    rows.append(_row(who, case, **numbers))
                    tell(f"{case} · {who}: {_told(numbers)}")
        except MpimError as error:
            tell("\n".join([f"{who}: {error}", *server.last_lines]))
            done = {row["case"] for row in rows}
            rows += [
                _row(who, case, reason=reason_of(error))
                for case in schedule.cases
                if case not in done
            ]
    return rows


def _row(who: str, case: str, **numbers: Any) -> Row:
    return {"who": who, "case": case, "note": CANDIDATES[who].note, **numbers}


def _told(numbers: Row) -> str:
    if "messages_per_s" not in numbers:
        return f"{numbers['seconds']:.3f} s"
    return f"{numbers['messages_per_s']:,.0f} msg/s, p99 {numbers['p99_ms'] or 0.0:.1f} ms, {numbers['lost']:,} lost"


def _allow_connections(clients: int) -> None:
    """Server processes inherit the limit of open files, and a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients + FILES_BESIDES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise LoadFailed(
            f"a process may have {hard:,} open files here: too few for {clients:,} connections"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

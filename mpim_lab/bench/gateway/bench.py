"""`mpim-lab bench gateway`: thousands of clients, beside python-socketio and socket.io on Node.

Each candidate is one server process, with Redis beside it as its documentation wants it. The
clients live in processes of their own, half of them in each, and write to clients in the other
half. A candidate has a Redis of its own in each round.

| case           | seconds               | messages_per_s | besides                         |
|----------------|-----------------------|----------------|---------------------------------|
| connect        | until all are         |                | memory_kib: growth a connection |
| 5,000 msg/s    |                       | handed over    | latency, lost                   |
| 200 × 8        |                       | handed over    | 8 unanswered each               |
| notice to all  | until the last has it |                | slowest_s: of several           |
| group of 1,000 | until the last has it |                | slowest_s: of several           |

messages_per_s: messages that a receiving client has, over the time from the beginning to the last
receipt. server_cpu and load_cpu: cores in use by the server and by the clients' processes: a load
that takes a core a process would be the limit.
"""

import asyncio
import resource
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from mpim_lab.bench.gateway.cases import GatewaySchedule
from mpim_lab.bench.gateway.peers.node import node_version
from mpim_lab.bench.gateway.round import GatewayRound, start_swarms
from mpim_lab.bench.gateway.servers import CANDIDATES, GatewayServer
from mpim_lab.bench.machine import describe_this_machine
from mpim_lab.bench.rounds import Tell, keep_quiet, reason_of, rotated
from mpim_lab.bench.rows import OURS, Row, rows_of
from mpim_lab.errors import LoadFailed, MpimError
from mpim_lab.lab.server.embedded import open_server

FILES_BESIDES = 100  # that a server has open for itself


async def bench_gateway(
    schedule: GatewaySchedule,
    tell: Tell = keep_quiet,
    *,
    whos: Sequence[str] = tuple(CANDIDATES),
) -> dict[str, Any]:
    """Run everybody who is installed through all cases, round by round.

    Raises LoadFailed when this system does not let a process have so many connections.
    """
    _allow_connections(schedule.clients)
    machine = await describe_this_machine()
    machine["packages"] |= {"node": node} if (node := node_version()) else {}
    missing = {who: await asyncio.to_thread(CANDIDATES[who].missing) for who in whos}
    found: list[Row] = []
    for round_ in range(1, schedule.rounds + 1):
        for who in rotated([who for who in whos if missing[who] is None], round_ - 1):
            found += await _through_all_cases(who, round_, schedule, tell)
    for who, reason in missing.items():
        if reason is not None:
            found += [_row(who, case, 1, {"reason": reason}) for case in schedule.cases]
    return {"machine": machine, "rows": rows_of("gateway", found, whos=whos, against=OURS)}


async def _through_all_cases(
    who: str, round_: int, schedule: GatewaySchedule, tell: Tell
) -> list[Row]:
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
                    rows.append(_row(who, case, round_, numbers))
                    tell(f"round {round_} · {case} · {who}: {_told(numbers)}")
        except MpimError as error:
            tell("\n".join([f"round {round_} · {who}: {error}", *server.last_lines]))
            reason = {"reason": reason_of(error)}
            rows += [_row(who, case, round_, reason) for case in schedule.cases[len(rows) :]]
    return rows


def _row(who: str, case: str, round_: int, numbers: Row) -> Row:
    return {"who": who, "case": case, "round": round_, "note": CANDIDATES[who].note} | numbers


def _told(numbers: Row) -> str:
    if "messages_per_s" not in numbers:
        return f"{numbers['seconds']:.3f} s"
    rate, p99, lost = numbers["messages_per_s"], numbers["p99_ms"] or 0.0, numbers["lost"]
    return f"{rate:,.0f} msg/s, p99 {p99:.1f} ms, {lost:,} lost"


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

"""`mpim-lab bench pubsub`, `streams`, `batching`: ours beside the peers, under the same loads."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.limit import LIMIT, measure_limit, missing_limit
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.rounds import Tell, keep_quiet, play
from mpim_lab.bench.rows import OURS, Row, rows_of
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.load.load import LoadResult, measure
from mpim_lab.load.redis.candidates import candidates_for

PAYLOAD_BYTES = 100
CHANNEL_ONLY = "mpim_lab, Pub/Sub"
# Ours: adaptive, 100 messages a call; then what each part of it gives, and the peer.
BATCHING = (
    OURS,
    "mpim_lab, one by one",
    "mpim_lab, window 2 ms",
    "mpim_lab, not batched",
    "redis-py pipelined",
)


async def bench_pubsub(schedule: Schedule, tell: Tell = keep_quiet) -> dict[str, Any]:
    """Publish to receive: every candidate that is installed, and the limit."""
    whos = [*candidates_for("pubsub"), LIMIT]
    return await _compare("pubsub", whos, schedule, tell)


async def bench_streams(schedule: Schedule, tell: Tell = keep_quiet) -> dict[str, Any]:
    """Add, consume, acknowledge: every candidate that is installed, in the closed cases."""
    closed = tuple(case for case in schedule.cases if not case.is_open)
    whos = [*candidates_for("streams"), CHANNEL_ONLY]
    return await _compare("streams", whos, replace(schedule, cases=closed), tell)


async def bench_batching(schedule: Schedule, tell: Tell = keep_quiet) -> dict[str, Any]:
    """Many messages in a frame, beside single ones and redis-py's pipelines.

    All unpack what was packed and hand each message to a handler; that cost is in the numbers.
    """
    return await _compare("batching", BATCHING, schedule, tell)


async def _compare(
    bench: str, whos: Sequence[str], schedule: Schedule, tell: Tell
) -> dict[str, Any]:
    """Play the schedule on one server. Gives `{"machine": …, "rows": …}`.

    Who cannot run here has rows, too, with the reason.
    """
    candidates = candidates_for(bench)
    names = {who: candidates[who].name for who in whos if who in candidates}
    missing = {who: candidates[who].missing for who in names} | {LIMIT: missing_limit()}
    async with open_server() as server:

        async def run(who: str, case: Case) -> Row:
            if who == LIMIT:
                rate = await measure_limit(
                    server.url, case, schedule.seconds, PAYLOAD_BYTES, server.prefix
                )
                return {"messages_per_s": rate}
            result = await measure(
                server.url,
                names.get(who, OURS),
                seconds=schedule.seconds,
                prefix=server.prefix,
                tasks=case.tasks,
                offered_per_s=case.offered_per_s,
                payload_bytes=PAYLOAD_BYTES,
            )
            if bench == "streams":
                await _forget_streams(server.url, server.prefix)
            return numbers_of(result)

        machine = await describe_machine(server.url)
        present = [who for who in whos if missing.get(who) is None]
        found = await play(present, schedule, run, tell)
    found += [
        {"who": who, "reason": missing[who]} | case.columns()
        for who in whos
        if missing.get(who) is not None
        for case in schedule.cases
    ]
    order = sorted(whos, key=lambda who: who != OURS)
    return {"machine": machine, "rows": rows_of(bench, found, whos=order, against=OURS)}


def numbers_of(result: LoadResult) -> Row:
    """One run's numbers, as a row has them."""
    sent = max(result.sent, 1)
    return {
        "messages_per_s": sustained_per_s(result),
        "p50_ms": result.p50_ms,
        "p90_ms": result.p90_ms,
        "p99_ms": result.p99_ms,
        "max_ms": result.max_ms,
        "sent_per_s": result.sent / result.seconds,
        "kept_up": result.kept_up,
        "lost": result.lost,
        "duplicates": result.duplicates,
        "reordered": result.reordered,
        "publisher_rss_bytes": result.publisher_rss_bytes,
        "receiver_rss_bytes": result.receiver_rss_bytes,
        "publisher_cpu_us": result.publisher_cpu_s / sent * 1e6,
        "receiver_cpu_us": result.receiver_cpu_s / sent * 1e6,
    }


def sustained_per_s(result: LoadResult) -> float:
    """Messages received a second: from the first receipt to the last, or over the time of sending.

    The lower one: a receiver that the machine lets wait finds a pile and takes it in no time; that
    is no rate that anybody keeps up.
    """
    return min(result.messages_per_s, result.received / result.seconds)


async def _forget_streams(url: str, prefix: str) -> None:
    """A run leaves a stream of some hundred thousand entries: the next finds an empty server."""
    async with Redis.from_url(url, protocol=3) as client:
        keys = [key async for key in client.scan_iter(match=f"{prefix}load:*", count=1_000)]
        if keys:
            await client.unlink(*keys)

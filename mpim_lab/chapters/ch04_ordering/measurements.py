"""Chapter 4's cost: the same messages, the same processes, one guarantee more at each step."""

from statistics import median

import pandas as pd

from mpim_lab.lab.server.embedded import open_server
from mpim_lab.load.load import measure
from mpim_lab.mq.connection.bounds import check_bounds

STEPS = {
    "Pub/Sub": "mpim_lab",
    "stream, no group": "streams:mpim_lab, no group",
    "+ acknowledgement": "streams:mpim_lab",
    "+ idempotency": "streams:mpim_lab, + idempotency",
    "+ ordering": "streams:mpim_lab, + ordering",
}


async def guarantee_overhead(
    *, seconds: float = 1.0, rounds: int = 1, tasks: int = 128
) -> pd.DataFrame:
    """Messages a second from a publisher process to a handler in another, at each step.

    Medians of interleaved rounds.
    """
    check_bounds(1, 100, rounds=rounds)
    rates: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(rounds):
        for name, who in STEPS.items():
            async with open_server() as server:  # a new one: no step finds what another has left
                result = await measure(
                    server.url, who, tasks=tasks, seconds=seconds, prefix=server.prefix
                )
            rates[name].append(result.messages_per_s)
    return pd.DataFrame(
        [(name, median(found)) for name, found in rates.items()],
        columns=["step", "messages per second"],
    )

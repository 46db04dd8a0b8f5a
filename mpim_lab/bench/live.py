"""`mpim-lab bench live`: what watching costs.

The same load, with and without live charts drawn in a notebook's kernel.

The charts are drawn in a real Jupyter kernel, with everything it serializes and sends; a browser's
own work is not counted.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from statistics import median
from typing import Any

import nbformat
from IPython.display import display
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from mpim_lab.bench.cases import Case
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.rows import Row
from mpim_lab.errors import LoadFailed
from mpim_lab.lab.server.child import child_environment
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.load.load import LoadResult, start_load
from mpim_lab.widgets.charts import POLL_S, LiveCharts

CASES = (Case(128), Case(offered_per_s=100_000))
WAYS = ("nobody watches", "charts drawn live")
_URL = "MPIM_BENCH_URL"  # not in the cell, which a time-out shows: it may hold a password
_CELL = "import json\nfrom mpim_lab.bench.live import rounds_in_kernel\nprint(json.dumps(await rounds_in_kernel({options})))"


async def bench_live(rounds: int, seconds: float) -> dict[str, Any]:
    """Start a kernel, play the rounds in it; gives `{"machine": …, "rows": …}`.

    Raises LoadFailed.
    """
    async with open_server() as server:
        machine = await describe_machine(server.url)
        options = f"{server.prefix!r}, {rounds}, {seconds}"
        cell = nbformat.v4.new_code_cell(_CELL.format(options=options))  # type: ignore[no-untyped-call]
        notebook = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
        try:
            elsewhere = {
                "metadata": {"path": "/"}
            }  # a kernel takes modules from where it is: a learner's `queue.py`, too
            limit_s = 60 + int(rounds * len(CASES) * 2 * (seconds + 5))
            await NotebookClient(notebook, timeout=limit_s, resources=elsewhere).async_execute(
                env=child_environment(**{_URL: server.url})
            )
        except CellExecutionError as error:
            raise LoadFailed(
                f"{error.ename}: {error.evalue}"
            ) from error  # its text is a traceback in colour
        except (CellTimeoutError, DeadKernelError) as error:
            raise LoadFailed(str(error)) from error
    said = "".join(
        output.get("text", "") for output in cell.outputs if output.output_type == "stream"
    )
    return {"machine": machine, "rows": rows_of_live(json.loads(said.splitlines()[-1]))}


async def rounds_in_kernel(prefix: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Play the rounds here, on the server that the environment names; who begins alternates."""
    samples, url = [], os.environ[_URL]
    for round_ in range(rounds):
        for case in CASES:
            for way in WAYS if round_ % 2 else WAYS[::-1]:
                options: dict[str, Any] = {
                    "tasks": case.tasks,
                    "offered_per_s": case.offered_per_s,
                    "prefix": prefix,
                }
                result = await (_plain if way == WAYS[0] else _drawn)(
                    url, seconds=seconds, **options
                )
                numbers = {
                    name: getattr(result, name)
                    for name in ("messages_per_s", "p50_ms", "p99_ms", "lost")
                }
                samples.append({"case": str(case), "way": way, "round": round_, **numbers})
    return samples


async def _plain(url: str, **options: Any) -> LoadResult:
    return await start_load(url, **options).result()


async def _drawn(url: str, **options: Any) -> LoadResult:
    trace = Trace()
    charts = LiveCharts(trace)
    display(charts)  # type: ignore[no-untyped-call]
    load = start_load(url, trace=trace, **options)
    while not load.done:
        charts.refresh()
        await asyncio.sleep(POLL_S)
    charts.refresh()
    charts.close()
    return await load.result()


def rows_of_live(samples: Sequence[dict[str, Any]]) -> list[Row]:
    """One row a case and way: medians over the rounds; `ratio` is the median of the rounds' watched ÷ unwatched."""
    rows: list[Row] = []
    for case in dict.fromkeys(sample["case"] for sample in samples):
        plain = {
            s["round"]: s["messages_per_s"]
            for s in samples
            if (s["case"], s["way"]) == (case, WAYS[0])
        }
        for way in WAYS:
            own = [sample for sample in samples if (sample["case"], sample["way"]) == (case, way)]
            rates = [sample["messages_per_s"] for sample in own]
            rows.append(
                {
                    "bench": "live",
                    "who": "mpim_lab",
                    "case": f"{case}, {way}",
                    "messages_per_s": median(rates),
                    "spread": [min(rates), max(rates)],
                    "ratio": median(
                        sample["messages_per_s"] / plain[sample["round"]] for sample in own
                    ),
                    "p50_ms": median(sample["p50_ms"] for sample in own),
                    "p99_ms": median(sample["p99_ms"] for sample in own),
                    "lost": sum(sample["lost"] for sample in own),
                    "rounds": len(own),
                }
            )
    return rows

"""`mpim-lab bench live`: what watching costs: the same load with and without live charts.

The charts are drawn in a real Jupyter kernel, with everything it serializes and sends; a browser's
own work is not counted.
"""

import asyncio
import json
import os
from typing import Any

import nbformat
from IPython.display import display
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.comparison import numbers_of
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.rounds import Tell, keep_quiet, play
from mpim_lab.bench.rows import Row, rows_of
from mpim_lab.errors import LoadFailed
from mpim_lab.lab.server.child import child_environment
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.load.load import LoadResult, start_load
from mpim_lab.widgets.charts import POLL_S, LiveCharts

CASES = (Case(128), Case(offered_per_s=100_000))
FULL_LIVE = Schedule(CASES, rounds=5, seconds=3.0)
QUICK_LIVE = Schedule(CASES, rounds=2, seconds=0.9)
WAYS = ("unwatched", "charts drawn live")
_URL = "MPIM_BENCH_URL"  # not in the cell, which a time-out shows: it may hold a password
_CELL = """import json
from mpim_lab.bench.live import play_in_kernel
print(json.dumps(await play_in_kernel({options})))"""


async def bench_live(schedule: Schedule, tell: Tell = keep_quiet) -> dict[str, Any]:
    """Start a kernel, play the rounds in it. Raises LoadFailed."""
    rounds, seconds = schedule.rounds, schedule.seconds
    async with open_server() as server:
        machine = await describe_machine(server.url)
        options = f"{server.prefix!r}, {rounds}, {seconds}"
        code = _CELL.format(options=options)
        cell = nbformat.v4.new_code_cell(code)  # type: ignore[no-untyped-call]
        notebook = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
        # A kernel takes modules from where it is: a learner's `queue.py`, too.
        elsewhere = {"metadata": {"path": "/"}}
        limit_s = 60 + int(rounds * len(CASES) * 2 * (seconds + 5))
        try:
            await NotebookClient(notebook, timeout=limit_s, resources=elsewhere).async_execute(
                env=child_environment(**{_URL: server.url})
            )
        except CellExecutionError as error:  # its text is a traceback in colour
            raise LoadFailed(f"{error.ename}: {error.evalue}") from error
        except (CellTimeoutError, DeadKernelError) as error:
            raise LoadFailed(str(error)) from error
    said = "".join(
        output.get("text", "") for output in cell.outputs if output.output_type == "stream"
    )
    found = json.loads(said.splitlines()[-1])
    return {"machine": machine, "rows": rows_of("live", found, whos=WAYS, against=WAYS[0])}


async def play_in_kernel(prefix: str, rounds: int, seconds: float) -> list[Row]:
    """Play the rounds here, on the server that the environment names."""

    async def run(way: str, case: Case) -> Row:
        measure = _plain if way == WAYS[0] else _drawn
        options = {"tasks": case.tasks, "offered_per_s": case.offered_per_s, "prefix": prefix}
        return numbers_of(await measure(os.environ[_URL], seconds=seconds, **options))

    return await play(WAYS, Schedule(CASES, rounds, seconds), run)


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

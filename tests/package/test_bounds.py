"""Numbers that make no sense are refused by name, before anything is started for them."""

import numpy
import pytest

from mpim_lab.chapters.ch02_streams.measurements import throughput_by_prefetch
from mpim_lab.chapters.ch03_idempotency.measurements import throughput_by_tasks
from mpim_lab.chapters.ch04_ordering.measurements import guarantee_overhead
from mpim_lab.chapters.ch05_batching.measurements import littles_law_sweep
from mpim_lab.chapters.ch06_compression.measurements import batched_table, message_table
from mpim_lab.chapters.ch06_compression.measurements import size_sweep as compression_sizes
from mpim_lab.chapters.ch07_pool.measurements import blocking_sweep, callers_sweep, collect
from mpim_lab.chapters.ch07_pool.measurements import size_sweep as pool_sizes
from mpim_lab.chapters.ch08_im.measurements import group_sweep, overhead_sweep
from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.connection.bounds import check_bounds


@pytest.mark.parametrize("value", [0, 101, 1.5, True, "7", None, [1, 0], (2, float("nan"))])
def test_what_is_no_whole_number_within_the_bounds_is_refused(value):
    """Too small, too large, not whole, no number; one of many is enough."""
    with pytest.raises(InvalidParameter, match=r"tasks=.*a whole number from 1 to 100"):
        check_bounds(1, 100, tasks=value)


def test_numbers_within_the_bounds_pass():
    """Bounds included; numpy's numbers are numbers; without an int as bound, halves are fine."""
    check_bounds(1, 100, tasks=(1, 100), rounds=numpy.int64(7))
    check_bounds(0.5, 2.0, seconds=(1, 0.5, numpy.float64(2.0)))
    with pytest.raises(InvalidParameter, match=r"seconds=nan: a number from 0\.5 to 2\.0"):
        check_bounds(0.5, 2.0, seconds=float("nan"))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (littles_law_sweep((0,)), "windows_ms=0"),
        (littles_law_sweep((1,), offered_per_s=1), "offered_per_s=1"),
        (compression_sizes((0,)), "sizes=0"),
        (group_sweep((0,)), "sizes=0"),
        (overhead_sweep(0), "seconds=0"),
        (overhead_sweep(rounds=0), "rounds=0"),
        (callers_sweep((0,)), "callers=0"),
        (callers_sweep((1,), ("by air",)), "by air"),
        (blocking_sweep(block_s=0), "block_s=0"),
        (pool_sizes((0,)), "sizes=0"),
        (pool_sizes((1,), hold_ms=-1), "hold_ms=-1"),
    ],
)
async def test_a_sweep_names_the_number_it_cannot_use(rows, named):
    """Instead of a division by zero, a wait without an end, or an empty chart."""
    with pytest.raises(InvalidParameter, match=named):
        await collect(rows)


@pytest.mark.parametrize(
    ("measuring", "named"),
    [
        (lambda: guarantee_overhead(rounds=0), "rounds=0"),
        (lambda: throughput_by_tasks((0,)), "tasks=0"),
        (lambda: throughput_by_tasks((1,), messages=1), "messages=1"),
        (lambda: throughput_by_prefetch((10,), orders=0), "orders=0"),
        (lambda: throughput_by_prefetch((0,)), "batch_sizes=0"),
    ],
)
async def test_a_measurement_names_the_number_it_cannot_use(measuring, named):
    """The tables of chapters 2, 3 and 4."""
    with pytest.raises(InvalidParameter, match=named):
        await measuring()


@pytest.mark.parametrize(
    ("table", "named"),
    [(lambda: message_table(0), "count=0"), (lambda: batched_table((0,)), "batch_sizes=0")],
)
def test_a_table_names_the_number_it_cannot_use(table, named):
    """Those of chapter 6."""
    with pytest.raises(InvalidParameter, match=named):
        table()

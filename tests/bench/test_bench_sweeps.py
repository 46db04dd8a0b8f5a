"""Sweeps, everything, the page and the reference: rows in, tables, figures and comparisons out."""

import json
import math

import pandas as pd
import pytest

from mpim_lab.bench import reference
from mpim_lab.bench.command import BENCHES, MEASURED_IN_ALL, bench_all
from mpim_lab.bench.reference import beside_reference, reference_rows
from mpim_lab.bench.report.page import page_of, sections_of
from mpim_lab.bench.report.table import report_text
from mpim_lab.bench.rows import EVERY_CASE, rounded, rows_of
from mpim_lab.errors import InvalidParameter, LoadFailed
from mpim_lab.widgets.static_picture import PALETTE

MACHINE = {"cpu": "Z80 <b>", "cores": 1, "python": "CPython 3.11", "server": "Valkey 9.0"}


def batching(who, case, rate, loop="closed"):
    return {"bench": "batching", "who": who, "case": case, "loop": loop, "messages_per_s": rate}


def growth(axis, value, rate):
    sizes = {"server_bytes": 2**21, "client_bytes": 2**26, "lost": 0, "spread": [rate, rate]}
    row = {
        "bench": "growth",
        "who": "mpim_lab",
        "case": f"{axis} {value:,}",
        "axis": axis,
        "value": value,
    }
    return row | {"messages_per_s": rate} | sizes


def pool(who, callers, rate):
    row = {
        "bench": "pool",
        "who": who,
        "case": f"{callers} callers",
        "callers": callers,
        "calls_per_s": rate,
    }
    return row | {
        "p50_wait_ms": 0.1,
        "p99_wait_ms": 0.2,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "spread": [rate, rate],
    }


def compression(who, size, left):
    row = {
        "bench": "compression",
        "who": who,
        "case": f"{size:,} bytes",
        "bytes": size,
        "left_percent": left,
    }
    return row | {"pack_us": 1.0, "unpack_us": 1.0, "saved_bytes_a_us": 5.0, "spread": [4.0, 6.0]}


CHAT = {
    "bench": "compression",
    "who": "lz4",
    "case": "chat message",
    "median_bytes": 64.0,
    "times_smaller": 0.75,
}
CHAT |= {"grew_percent": 100.0, "left_percent": 127.0}
ROWS = [
    batching("mpim_lab", "1 task", 300.0),
    batching("mpim_lab", "16 tasks", 900.0),
    batching("mpim_lab", "50,000 msg/s", 50_000.0, "open"),
    batching("mpim_lab, not batched", "1 task", 100.0),
    {
        "bench": "batching",
        "who": "redis-py pipelined",
        "case": "1 task",
        "loop": "closed",
        "reason": "not installed",
    },
    compression("lz4", 64, 123.0),
    compression("zstd", 64, 108.0),
    compression("lz4", 1_024, 68.0),
    CHAT,
    pool("this pool", 1, 10.0),
    pool("this pool", 64, 40.0),
    {"bench": "pool", "who": "naive", "case": "64 callers", "callers": 64, "reason": "it broke"},
    growth("channels", 1, 200.0),
    growth("channels", 1_000, 150.0),
]


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A reference of these rows."""
    path = tmp_path / "reference.json"
    path.write_text(json.dumps({"machine": MACHINE, "rows": ROWS}), encoding="utf-8")
    monkeypatch.setattr(reference, "data_path", lambda name: path)
    return path


def test_a_row_of_rounds_has_medians_spread_and_the_reason_of_a_round_that_failed():
    """What is the same in all rounds stays as it is."""
    found = [
        {"who": "a", "case": "c", "value": 1_000, "rate": rate} for rate in (1.0, 9.0, 4.0, 5.0)
    ]
    [row] = rows_of(
        "growth", [*found, {"who": "a", "case": "c", "value": 1_000, "reason": "it broke"}], "rate"
    )
    assert (row["bench"], row["who"], row["case"], row["value"]) == ("growth", "a", "c", 1_000)
    assert (row["rate"], row["spread"], row["rounds"]) == (4.5, [1.0, 9.0], 4)
    assert (row["reason"], row["failed_rounds"]) == ("it broke", 1)


def test_a_row_without_a_round_that_worked_has_the_reason_alone():
    """No numbers, no spread."""
    [row] = rows_of("pool", [{"who": "a", "case": "c", "reason": "it broke"}], "rate")
    assert row == {
        "bench": "pool",
        "who": "a",
        "case": "c",
        "reason": "it broke",
        "failed_rounds": 1,
    }


async def test_everything_goes_on_when_one_bench_fails(monkeypatch):
    """Its place is kept by a row with the reason; numbers have four digits."""

    async def good(schedule, tell):
        return {"machine": MACHINE, "rows": [growth("tasks", 1, 1.23456789)]}

    async def broken(schedule, tell):
        raise LoadFailed("the kernel died")

    for name in MEASURED_IN_ALL:
        run = good if name == "growth" else broken
        monkeypatch.setitem(BENCHES, name, BENCHES[name]._replace(run=run))
    report = await bench_all(quick=True)
    assert report["machine"] == MACHINE
    *failed, row = report["rows"]
    assert row["messages_per_s"] == 1.235
    assert {row["reason"] for row in failed} == {"the kernel died"}
    assert {row["case"] for row in failed} == {EVERY_CASE}
    assert "Not measured: mpim_lab: the kernel died" in page_of(report)
    assert "pool\n\nnot measured" in report_text(report)
    monkeypatch.setitem(BENCHES, "growth", BENCHES["growth"]._replace(run=broken))
    with pytest.raises(LoadFailed, match="the kernel died"):
        await bench_all(quick=True)


def test_the_page_has_a_picture_a_bench_and_an_axis_with_a_sentence_each():
    """Palette colours, a transparent ground, every name that has numbers.

    Nothing from the network.
    """
    measured = [row for row in ROWS if row["bench"] != "batching"]
    sections = list(sections_of({"machine": MACHINE, "rows": measured}))
    assert [heading for heading, _, _ in sections] == [
        "Compression",
        "Connections",
        "Growth: channels",
    ]
    for _, sentence, figure in sections:
        assert sentence.endswith(".") and figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert {drawn.line.color for drawn in figure.data} <= set(PALETTE)
    names = [{drawn.name for drawn in figure.data} for _, _, figure in sections]
    assert names == [{"lz4", "zstd"}, {"this pool"}, {"throughput", "server", "clients"}]
    page = page_of({"machine": MACHINE, "rows": measured})
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert page.count('class="figure"') == 3 and "Z80 &lt;b&gt;" in page
    assert "<script src" not in page and "<link" not in page


def test_the_tables_have_every_name_case_and_reason():
    """One table a question."""
    for bench, wanted in {
        "compression": ["lz4", "zstd", "1,024", "one chat message", "0.75"],
        "pool": ["this pool", "64 callers", "naive: it broke (64 callers)"],
        "growth": ["channels", "1,000", "server MiB", "2.0"],
    }.items():
        text = report_text(
            {"machine": MACHINE, "rows": [row for row in ROWS if row["bench"] == bench]}
        )
        assert all(word in text for word in wanted)


def test_ones_own_figures_stand_beside_the_reference(kept):
    """By the notebook's names; the best closed case; NaN where the reference has no number."""
    best = pd.Series(
        {"none": 50.0, "redis-py, 100 a pipeline": 20.0, "adaptive, 100 a call": 450.0}
    )
    table = beside_reference("batching", best)
    assert list(table.index) == list(best.index)
    assert list(table.columns) == ["yours", "reference", "yours / reference"]
    assert table.loc["adaptive, 100 a call"].tolist() == [450.0, 900.0, 0.5]
    assert table.loc["none"].tolist() == [50.0, 100.0, 0.5]
    assert math.isnan(table.loc["redis-py, 100 a pipeline", "reference"])
    assert table.attrs["machine"].startswith("Z80 <b>, 1 core ·")


@pytest.mark.parametrize(
    ("bench", "name", "reference_value"),
    [
        ("compression", "lz4", 0.75),
        ("pool", "this pool", 40.0),
        ("growth", "channels 1,000", 150.0),
    ],
)
def test_each_bench_has_its_own_measure(kept, bench, name, reference_value):
    """Times smaller of a chat message, calls a second of 64 callers, a rate at a point."""
    table = beside_reference(bench, pd.Series({name: 3.0}))
    assert table.loc[name, "reference"] == reference_value


def test_another_case_can_be_asked_for(kept):
    """By its name in the rows."""
    assert (
        beside_reference("pool", pd.Series({"this pool": 5.0}), case="1 callers").iloc[0, 1] == 10.0
    )


def test_what_the_reference_does_not_have_is_refused_with_what_it_has(kept):
    """A bench, a case, names that all are unknown."""
    with pytest.raises(InvalidParameter, match="no such bench; it has pubsub, streams, batching"):
        reference_rows("batchign")
    with pytest.raises(
        InvalidParameter, match="case='65 callers': the reference has 1 callers, 64 callers"
    ):
        beside_reference("pool", pd.Series({"this pool": 1.0}), case="65 callers")
    with pytest.raises(InvalidParameter, match="none of these names; it has this pool"):
        beside_reference("pool", pd.Series({"that pool": 1.0}))


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"rows": []}'])
def test_a_reference_that_is_none_is_refused_with_the_advice(kept, text):
    """InvalidParameter with its name."""
    kept.write_text(text, encoding="utf-8")
    with pytest.raises(
        InvalidParameter, match=r"reference\.json .*mpim-lab bench all --json data/reference\.json"
    ):
        reference_rows("pool")


def test_a_missing_reference_is_named_with_the_advice(monkeypatch, tmp_path):
    """As where the package is installed without its data."""
    monkeypatch.setattr(reference, "FILE", "nowhere.json")
    with pytest.raises(
        InvalidParameter, match=r"'nowhere\.json': make it with `mpim-lab bench all --json data/"
    ):
        reference_rows("pool")


def test_rounding_leaves_truths_and_names_alone():
    """Only numbers with a fraction are shortened."""
    assert rounded([True, None, "1.23456", 1_234_567, math.pi]) == [
        True,
        None,
        "1.23456",
        1_234_567,
        3.142,
    ]

"""`mpim-lab bench batching`, `compression`, `pool`, `growth`, `all`: from arguments to files."""

import json

import pytest

from mpim_lab.bench import comparison
from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.command import BENCHES, MEASURED_IN_ALL, run_bench_command
from mpim_lab.bench.comparison import BATCHING
from mpim_lab.bench.growth import (
    CHANNELS,
    SIZE,
    SUBSCRIBERS,
    TASKS,
    Point,
    bench_growth,
    measure_point,
)
from mpim_lab.chapters.ch07_pool.connection_strategies import CONNECTION_STRATEGIES
from mpim_lab.errors import InvalidParameter
from mpim_lab.load.load import start_load
from mpim_lab.load.redis.candidates import CANDIDATES, candidates_for

# Dozens of processes, one after the other, beside the other tests.
pytestmark = pytest.mark.timeout(400)

CLOSED, OPEN = Case(2), Case(offered_per_s=1_000)
POINTS = (Point(SIZE, 16), Point(CHANNELS, 3), Point(SUBSCRIBERS, 3), Point(TASKS, 2))


@pytest.fixture
def tiny(monkeypatch):
    """Schedules of a tenth of a second, candidates that come with us."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    compared = Schedule((CLOSED,), rounds=1, seconds=0.05)
    for name, schedule in {
        "pubsub": compared,
        "streams": compared,
        "batching": Schedule((CLOSED, OPEN), rounds=1, seconds=0.05),
        "compression": Schedule((64,), rounds=1, seconds=0.02),
        "pool": Schedule((2,), rounds=1, seconds=0.02),
        "growth": Schedule(POINTS, rounds=1, seconds=0.05),
    }.items():
        monkeypatch.setitem(BENCHES, name, BENCHES[name]._replace(quick=schedule))

    def ours(bench):
        name = "streams:mpim_lab" if bench == "streams" else "mpim_lab"
        return candidates_for(bench) if bench == "batching" else {"mpim_lab": CANDIDATES[name]}

    monkeypatch.setattr(comparison, "candidates_for", ours)


def run(tmp_path, *arguments):
    found = tmp_path / "found.json"
    assert run_bench_command([*arguments, "--quick", "--json", str(found)]) == 0
    return json.loads(found.read_text(encoding="utf-8"))


def test_everything_is_one_file_and_one_page(tiny, tmp_path, capsys):
    """Every bench has its rows, or reasons; the page has a picture of each."""
    page = tmp_path / "all.html"
    report = run(tmp_path, "all", "--page", str(page))
    assert report["machine"]["server"]
    rows = {
        name: [row for row in report["rows"] if row["bench"] == name] for name in MEASURED_IN_ALL
    }
    assert all(rows.values()) and sum(map(len, rows.values())) == len(report["rows"])
    assert not [row for row in report["rows"] if "reason" in row and row["who"] != "limit"]
    cases = [(str(case), who) for case in (CLOSED, OPEN) for who in BATCHING]  # ours first
    assert [(row["case"], row["who"]) for row in rows["batching"]] == cases
    assert all((row["lost"], row["duplicates"]) == (0, 0) for row in rows["batching"])
    assert [row["who"] for row in rows["pool"]] == list(CONNECTION_STRATEGIES)
    assert all(row["calls_per_s"] > 0 and row["p50_ms"] <= row["p99_ms"] for row in rows["pool"])
    assert [(row["axis"], row["value"]) for row in rows["growth"]] == [
        (point.axis, point.value) for point in POINTS
    ]
    for row in rows["growth"]:
        assert row["messages_per_s"] > 0 and row["lost"] == 0
        assert min(row["server_bytes"], row["client_bytes"]) > 100_000
    cases = {row["case"] for row in rows["compression"]}
    assert cases == {"64 bytes", "chat message"}
    assert page.read_text(encoding="utf-8").count('class="figure"') == 3 + 1 + 1 + len(POINTS)
    said = capsys.readouterr()
    assert all(
        f"bench {name}\n" in said.err and f"{name}\n\n" in said.out for name in MEASURED_IN_ALL
    )


@pytest.mark.parametrize("bench", ["compression", "pool"])
def test_a_sweep_has_its_picture(bench, tiny, tmp_path, capsys):
    """As a page of its own."""
    picture = tmp_path / "picture.html"
    rows = run(tmp_path, bench, "--rounds", "2", "--picture", str(picture))["rows"]
    assert all(
        row["spread"][0] <= row["spread"][1] and row["rounds"] == 2
        for row in rows
        if "spread" in row
    )
    assert picture.read_text(encoding="utf-8").count('class="figure"') == 1
    said = capsys.readouterr().out
    assert all(row["who"] in said for row in rows)


async def test_nothing_is_lost_with_many_channels_or_many_subscribers(server):
    """A message counts once the last subscriber has it.

    Each channel that is drawn at random has a subscription.
    """
    for point in (Point(SUBSCRIBERS, 1), Point(SUBSCRIBERS, 3), Point(CHANNELS, 50)):
        row = await measure_point(server.url, "t:", point, 0.05)
        assert row["lost"] == 0 and row["messages_per_s"] > 0


async def test_a_point_that_cannot_be_measured_says_why(monkeypatch):
    """A value out of bounds is a reason in its row, not the end of the bench."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    report = await bench_growth(Schedule((Point(TASKS, 10_001),), rounds=1, seconds=0.05))
    [row] = report["rows"]
    assert "tasks=10001: must be from 1 to 10,000" in row["reason"]
    assert (row["axis"], row["value"]) == (TASKS, 10_001) and "messages_per_s" not in row


async def test_a_load_has_many_channels_or_many_subscribers_and_of_pubsub_alone(server):
    """What would not be counted rightly is refused."""
    for who, options in (
        ("mpim_lab", {"channels": 2, "subscribers": 2}),
        ("streams:mpim_lab", {"channels": 2}),
    ):
        with pytest.raises(InvalidParameter, match="either many channels or many subscribers"):
            start_load(server.url, who, **options)


@pytest.mark.parametrize(
    "arguments",
    [
        ["all", "--page", "no such directory/all.html"],
        ["all", "--picture", "all.html"],
        ["growth", "--page", "growth.html"],
        ["growth", "--rounds", "0"],
        ["pool", "--json", "."],
        ["everything"],
        [],
    ],
)
def test_bad_arguments_are_refused_before_the_run(arguments, capsys):
    """With argparse's status and a word about it."""
    with pytest.raises(SystemExit) as caught:
        run_bench_command(arguments)
    assert caught.value.code == 2
    assert "usage: mpim-lab bench" in capsys.readouterr().err


def test_all_of_the_compared_are_contestants():
    """A name that has changed over there would be missing here."""
    assert {f"batching:{who}" for who in BATCHING} <= set(CANDIDATES)

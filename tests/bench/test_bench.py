"""The bench: who runs when, what becomes of the samples, and how they are shown."""

import json
from dataclasses import replace

import pytest

from mpim_lab import cli
from mpim_lab.bench import limit
from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.command import BENCHES
from mpim_lab.bench.comparison import numbers_of
from mpim_lab.bench.limit import commands_per_s, measure_limit, missing_limit
from mpim_lab.bench.live import WAYS
from mpim_lab.bench.report.figures import comparison_figure
from mpim_lab.bench.report.table import report_text
from mpim_lab.bench.rounds import play
from mpim_lab.bench.rows import rows_of
from mpim_lab.errors import LoadFailed
from mpim_lab.load.load import LoadResult

CLOSED, SLOW, FAST = Case(16), Case(offered_per_s=20_000), Case(offered_per_s=50_000)
MACHINE = {"cpu": "Z80", "cores": 1, "python": "CPython 3.11", "server": "Valkey 9.0"}


def result(messages_per_s, **changes):
    percentiles = {"p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0, "max_ms": 4.0}
    faults = {"lost": 0, "duplicates": 0, "reordered": 0}
    costs = {
        "publisher_rss_bytes": 1,
        "receiver_rss_bytes": 2,
        "publisher_cpu_s": 0.5,
        "receiver_cpu_s": 0.25,
    }
    run = {
        "who": "x",
        "tasks": 16,
        "offered_per_s": None,
        "payload_bytes": 100,
        "sent": 1_000,
        "received": 1_000,
    }
    return LoadResult(
        **run
        | percentiles
        | faults
        | costs
        | {"seconds": 1.0, "messages_per_s": messages_per_s}
        | changes
    )


def sample(who, case, round_, numbers=None, reason=None):
    row = {"who": who, "round": round_} | case.columns()
    return row | (numbers or {}) | ({"reason": reason} if reason else {})


def samples_of_all_sorts():
    """Two rounds: ours, a peer in both loops, a limit with a rate, one open only, one missing."""
    samples = []
    for number, (own, peer) in enumerate([(100.0, 50.0), (200.0, 180.0)], start=1):
        for case in (CLOSED, FAST):
            samples += [
                sample("peer", case, number, numbers(peer)),
                sample("mpim_lab", case, number, numbers(own)),
            ]
        samples += [
            sample("limit", CLOSED, number, {"messages_per_s": 400.0}),
            sample("limit", FAST, number, reason="has no open loop"),
            sample("open only", CLOSED, number, reason="ended"),
            sample("open only", FAST, number, numbers(9.0)),
        ]
    absent = [sample("absent", case, 1, reason="is not installed: pip") for case in (CLOSED, FAST)]
    return samples + absent


def numbers(messages_per_s, **changes):
    return numbers_of(result(messages_per_s, **changes))


def rows_of_all_sorts(bench="pubsub", samples=None):
    whos = ("mpim_lab", "peer", "limit", "open only", "absent")
    return rows_of(bench, samples or samples_of_all_sorts(), whos=whos, against="mpim_lab")


def row_of(rows, who, case):
    [row] = [row for row in rows if (row["who"], row["case"]) == (who, str(case))]
    return row


async def run_at_100_per_s(who, case):
    return {"messages_per_s": 100.0}


@pytest.mark.parametrize("candidates", [3, 4])
async def test_everybody_begins_once_in_every_case(candidates):
    """Also where there are as many cases as candidates.

    Whoever runs first may find the machine in another mood.
    """
    whos = [f"candidate {number}" for number in range(candidates)]
    schedule = Schedule((Case(1), Case(16), Case(128)), rounds=candidates, seconds=1.0)
    samples = await play(whos, schedule, run_at_100_per_s)
    assert len(samples) == candidates * 3 * candidates
    for case in schedule.cases:
        own = [row for row in samples if row["case"] == str(case)]
        first = {row["round"]: row["who"] for row in reversed(own)}
        assert sorted(first.values()) == whos


def test_a_pile_that_is_taken_in_no_time_is_no_rate():
    """A thousand messages sent in two seconds are 500 a second, however late the receiver."""
    assert numbers(900_000.0, seconds=2.0)["messages_per_s"] == 500.0
    assert numbers(400.0, seconds=2.0)["messages_per_s"] == 400.0


async def test_an_error_becomes_a_sample_with_its_last_line_for_a_reason():
    """The others go on; the last line of a traceback is the error itself."""

    async def run(who, case):
        if who == "broken":
            raise LoadFailed(
                "the publisher ended with code 1:\n  File x\nConnectionError: refused\n"
            )
        return numbers(100.0)

    samples = await play(["broken", "sound"], Schedule((CLOSED,), rounds=2, seconds=1.0), run)
    found = {row["who"]: (row.get("messages_per_s"), row.get("reason")) for row in samples}
    assert found == {
        "broken": (None, "ConnectionError: refused"),
        "sound": (100.0, None),
    }


async def test_an_error_in_the_bench_itself_is_not_hidden():
    """Only the errors of this package are reasons."""

    async def run(who, case):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await play(["x"], Schedule((CLOSED,), rounds=1, seconds=1.0), run)


async def test_whoever_fell_far_behind_is_spared_the_higher_rates():
    """In all rounds, with the reason; never the lower rates, the closed loop, or ours."""
    runs = []

    async def run(who, case):
        runs.append((who, case))
        return numbers(0.5 * (case.offered_per_s or 100))

    samples = await play(
        ["mpim_lab", "peer"], Schedule((CLOSED, SLOW, FAST), rounds=2, seconds=1.0), run
    )
    assert runs.count(("peer", FAST)) == 0
    spared = [row for row in samples if (row["who"], row["case"]) == ("peer", str(FAST))]
    assert {row["reason"] for row in spared} == {"fell behind at 20,000 msg/s"}
    for pair in (
        ("mpim_lab", CLOSED),
        ("mpim_lab", SLOW),
        ("mpim_lab", FAST),
        ("peer", CLOSED),
        ("peer", SLOW),
    ):
        assert runs.count(pair) == 2


def test_a_row_holds_the_medians_and_the_spread_of_its_rounds():
    """Faults add up, the worst latency and the most memory stand."""
    rates = [(10.0, 1), (40.0, 0), (20.0, 2)]
    samples = [
        sample("peer", CLOSED, n, numbers(rate, lost=lost, max_ms=rate))
        for n, (rate, lost) in enumerate(rates)
    ]
    [row] = rows_of("pubsub", samples, against="mpim_lab")
    assert (row["messages_per_s"], row["spread"], row["rounds"]) == (20.0, [10.0, 40.0], 3)
    assert (row["lost"], row["max_ms"], row["p50_ms"]) == (3, 40.0, 1.0)
    assert (row["publisher_cpu_us"], row["receiver_cpu_us"]) == (500.0, 250.0)
    assert row["sent_per_s"] == 1_000.0
    assert "vs_mpim_lab" not in row  # ours did not run


def test_the_ratio_is_the_median_of_the_rounds_own_ratios():
    """Not the ratio of the medians: both numbers of a round met the same mood of the machine."""
    rows = rows_of_all_sorts()
    assert row_of(rows, "peer", CLOSED)["vs_mpim_lab"] == pytest.approx((50 / 100 + 180 / 200) / 2)
    assert row_of(rows, "mpim_lab", CLOSED)["vs_mpim_lab"] == 1.0
    assert rows[0]["who"] == "mpim_lab"


def test_whoever_has_no_numbers_stands_there_with_the_reason():
    """And whoever failed in one round of two has both."""
    samples = [*samples_of_all_sorts(), sample("peer", CLOSED, 3, reason="ended with code 1")]
    rows = rows_of_all_sorts(samples=samples)
    absent = row_of(rows, "absent", CLOSED)
    assert absent["reason"] == "is not installed: pip" and "messages_per_s" not in absent
    peer = row_of(rows, "peer", CLOSED)
    assert (peer["rounds"], peer["failed_rounds"], peer["reason"]) == (2, 1, "ended with code 1")
    assert "p50_ms" not in row_of(rows, "limit", CLOSED)


def test_an_open_loop_that_mostly_kept_up_kept_up():
    """A row says whether the rate was reached in more than half of its rounds."""
    kept = result(1_000.0, offered_per_s=1_000.0)
    for runs, verdict in (
        ([kept, kept, replace(kept, sent=500)], True),
        ([kept, replace(kept, sent=500)], False),
    ):
        rounds = [sample("peer", SLOW, n, numbers_of(run)) for n, run in enumerate(runs)]
        [row] = rows_of("pubsub", rounds)
        assert row["kept_up"] is verdict


def test_the_json_holds_the_machine_and_the_rows(tmp_path, monkeypatch, capsys):
    """As `mpim-lab bench pubsub --json FILE` writes it; the missing stand there too."""

    async def run(schedule, tell):
        assert (schedule.rounds, len(schedule.cases)) == (7, 3)
        return {"machine": MACHINE, "rows": rows_of_all_sorts()}

    monkeypatch.setitem(BENCHES, "pubsub", BENCHES["pubsub"]._replace(run=run))
    assert (
        cli.main(
            ["bench", "pubsub", "--quick", "--rounds", "7", "--json", str(tmp_path / "found.json")]
        )
        == 0
    )
    report = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert report == {"machine": MACHINE, "rows": rows_of_all_sorts()}
    row = row_of(report["rows"], "peer", CLOSED)
    assert {
        "bench",
        "who",
        "case",
        "messages_per_s",
        "p50_ms",
        "p99_ms",
        "lost",
        "spread",
        "vs_mpim_lab",
    } <= set(row)
    assert row_of(report["rows"], "absent", FAST)["reason"] == "is not installed: pip"
    assert "not measured" in capsys.readouterr().out


def test_a_bench_that_fails_says_so(monkeypatch, capsys):
    """One line and a status, no traceback."""

    async def run(schedule, tell):
        raise LoadFailed("the kernel died")

    monkeypatch.setitem(BENCHES, "live", BENCHES["live"]._replace(run=run))
    assert cli.main(["bench", "live"]) == 1
    assert capsys.readouterr().err == "mpim-lab bench: the kernel died\n"


def test_the_table_has_every_candidate_and_every_reason():
    """Also those without a number in it."""
    text = report_text({"machine": MACHINE, "rows": rows_of_all_sorts()})
    for who in ("mpim_lab", "peer", "limit", "open only", "absent: is not installed: pip"):
        assert f"\n  {who}" in text
    assert "limit: has no open loop (50,000 msg/s)" in text
    assert "Z80, 1 core · CPython 3.11 · Valkey 9.0" in text


def test_the_table_of_live_has_both_ways_of_every_case():
    """The ratio is of two runs of the same round."""
    rates = [(WAYS[0], 100.0, 0), (WAYS[1], 90.0, 0), (WAYS[0], 300.0, 1), (WAYS[1], 300.0, 1)]
    samples = [sample(way, CLOSED, n, numbers(rate)) for way, rate, n in rates]
    rows = rows_of("live", samples, whos=WAYS, against=WAYS[0])
    found = [(row["vs_unwatched"], row["messages_per_s"], row["spread"]) for row in rows]
    assert found == [(1.0, 200.0, [100.0, 300.0]), (0.95, 195.0, [90.0, 300.0])]
    text = report_text({"machine": MACHINE, "rows": rows})
    assert all(word in text for word in (*WAYS, str(CLOSED), "0.950×"))


def test_the_picture_draws_everybody_who_has_numbers_and_names_them_once():
    """On one side or both, in one colour and shape; whoever has none is not drawn."""
    figure = comparison_figure(rows_of_all_sorts())
    named = [drawn.name for drawn in figure.data if drawn.showlegend]
    assert sorted(named) == ["limit", "mpim_lab", "open only", "peer"]
    for who, sides in (("mpim_lab", 2), ("peer", 2), ("limit", 1), ("open only", 1)):
        own = [drawn for drawn in figure.data if drawn.name == who]
        assert len(own) == sides and all(len(drawn.x) == len(drawn.y) == 1 for drawn in own)
        assert len({(drawn.marker.color, drawn.marker.symbol) for drawn in own}) == 1


def test_the_picture_of_a_closed_loop_alone_has_its_latencies_beside_it():
    """Streams have no open loop; ten candidates are told apart."""
    whos = ["mpim_lab", *(f"peer {number}" for number in range(9))]
    samples = [sample(who, CLOSED, 1, numbers(100.0)) for who in whos]
    figure = comparison_figure(rows_of("streams", samples))
    assert len(figure.data) == 2 * len(whos)
    assert len({(drawn.marker.color, drawn.marker.symbol) for drawn in figure.data}) == len(whos)
    assert "closed loop: latency" in figure.layout.annotations[1].text


@pytest.mark.parametrize("said", ["", "\n", "Could not connect to server", '"PUBLISH","fast"\n'])
def test_a_limit_program_that_gives_no_rate_is_quoted(said):
    """LoadFailed with what it said."""
    with pytest.raises(LoadFailed, match=f"redis-benchmark said: .*{said.strip()}"):
        commands_per_s(said)


@pytest.mark.parametrize(
    ("url", "case", "reason"),
    [
        ("redis://x", SLOW, "no open loop"),
        ("redis://:pw@x", CLOSED, "password"),
        ("rediss://x", CLOSED, "TLS"),
    ],
)
async def test_what_the_limit_cannot_measure_is_refused(url, case, reason):
    """LoadFailed, before the program starts."""
    with pytest.raises(LoadFailed, match=reason):
        await measure_limit(url, case, 1.0, 100)


def test_a_missing_limit_is_named_with_the_advice(monkeypatch):
    """Where redis-benchmark is not installed, its row says how to get it."""
    monkeypatch.setattr(limit.shutil, "which", lambda name: None)  # type: ignore[attr-defined]
    assert "apt-get install" in missing_limit()

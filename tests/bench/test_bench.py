"""The bench: who runs when, what becomes of the samples, and how they are shown."""

import json
from dataclasses import replace

import pytest

from mpim_lab import cli
from mpim_lab.bench import command, limit
from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.limit import commands_per_s, measure_limit, missing_limit
from mpim_lab.bench.live import WAYS, rows_of_live
from mpim_lab.bench.report.figures import picture_of
from mpim_lab.bench.report.table import live_table_of, table_of
from mpim_lab.bench.rounds import Sample, play
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


def samples_of_all_sorts():
    """Two rounds: ours and a peer in both loops, a limit with a rate only, one open only, one that is missing."""
    samples = []
    for number, (own, peer) in enumerate([(100.0, 50.0), (200.0, 180.0)], start=1):
        for case in (CLOSED, FAST):
            samples += [
                Sample("peer", case, number, result(peer)),
                Sample("mpim_lab", case, number, result(own)),
            ]
        samples += [
            Sample("limit", CLOSED, number, 400.0),
            Sample("limit", FAST, number, reason="has no open loop"),
        ]
        samples += [
            Sample("open only", CLOSED, number, reason="ended"),
            Sample("open only", FAST, number, result(9.0)),
        ]
    return [
        *samples,
        *(Sample("absent", case, 1, reason="is not installed: pip") for case in (CLOSED, FAST)),
    ]


def row_of(rows, who, case):
    [row] = [row for row in rows if (row["who"], row["case"]) == (who, str(case))]
    return row


async def played(whos, schedule, run):
    return [sample async for sample in play(whos, schedule, run)]


async def run_at_100_per_s(who, case):
    return 100.0


@pytest.mark.parametrize("candidates", [3, 4])
async def test_everybody_begins_once_in_every_case(candidates):
    """Also where there are as many cases as candidates.

    Whoever runs first may find the machine in another mood.
    """
    whos = [f"candidate {number}" for number in range(candidates)]
    schedule = Schedule((Case(1), Case(16), Case(128)), rounds=candidates, seconds=1.0)
    samples = await played(whos, schedule, run_at_100_per_s)
    assert len(samples) == candidates * 3 * candidates
    for case in schedule.cases:
        first = {sample.round: sample.who for sample in reversed(samples) if sample.case == case}
        assert sorted(first.values()) == whos


def test_a_pile_that_is_taken_in_no_time_is_no_rate():
    """A thousand messages that were sent in two seconds are five hundred a second, however late the receiver woke up."""
    assert Sample("peer", CLOSED, 1, result(900_000.0, seconds=2.0)).messages_per_s == 500.0
    assert Sample("peer", CLOSED, 1, result(400.0, seconds=2.0)).messages_per_s == 400.0


async def test_an_error_becomes_a_sample_with_its_last_line_for_a_reason():
    """The others go on; the last line of a traceback is the error itself."""

    async def run(who, case):
        if who == "broken":
            raise LoadFailed(
                "the publisher ended with code 1:\n  File x\nConnectionError: refused\n"
            )
        return result(100.0)

    samples = await played(["broken", "sound"], Schedule((CLOSED,), rounds=2, seconds=1.0), run)
    assert {s.who: (s.messages_per_s, s.reason) for s in samples} == {
        "broken": (None, "ConnectionError: refused"),
        "sound": (100.0, None),
    }


async def test_an_error_in_the_bench_itself_is_not_hidden():
    """Only the errors of this package are reasons."""

    async def run(who, case):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await played(["x"], Schedule((CLOSED,), rounds=1, seconds=1.0), run)


async def test_whoever_fell_far_behind_is_spared_the_higher_rates():
    """In all rounds, with the reason; never the lower rates, the closed loop, or ours."""
    runs = []

    async def run(who, case):
        runs.append((who, case))
        return result(0.5 * (case.offered_per_s or 100))

    samples = await played(
        ["mpim_lab", "peer"], Schedule((CLOSED, SLOW, FAST), rounds=2, seconds=1.0), run
    )
    assert runs.count(("peer", FAST)) == 0
    assert {s.reason for s in samples if (s.who, s.case) == ("peer", FAST)} == {
        "fell behind at 20,000 msg/s"
    }
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
        Sample("peer", CLOSED, n, result(rate, lost=lost, max_ms=rate))
        for n, (rate, lost) in enumerate(rates)
    ]
    [row] = rows_of("pubsub", samples)
    assert (row["messages_per_s"], row["spread"], row["rounds"]) == (20.0, [10.0, 40.0], 3)
    assert (row["lost"], row["max_ms"], row["p50_ms"], row["p99_spread_ms"]) == (
        3,
        40.0,
        1.0,
        [3.0, 3.0],
    )
    assert (row["publisher_cpu_us"], row["receiver_cpu_us"], row["sent_per_s"]) == (
        500.0,
        250.0,
        1_000.0,
    )
    assert row["vs_mpim_lab"] is None  # ours did not run


def test_the_ratio_is_the_median_of_the_rounds_own_ratios():
    """Not the ratio of the medians: both numbers of a round met the same mood of the machine."""
    rows = rows_of("pubsub", samples_of_all_sorts())
    assert row_of(rows, "peer", CLOSED)["vs_mpim_lab"] == pytest.approx((50 / 100 + 180 / 200) / 2)
    assert row_of(rows, "mpim_lab", CLOSED)["vs_mpim_lab"] == 1.0
    assert rows[0]["who"] == "mpim_lab"


def test_whoever_has_no_numbers_stands_there_with_the_reason():
    """And whoever failed in one round of two has both."""
    samples = [*samples_of_all_sorts(), Sample("peer", CLOSED, 3, reason="ended with code 1")]
    rows = rows_of("pubsub", samples)
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
        [row] = rows_of(
            "pubsub", [Sample("peer", SLOW, number, run) for number, run in enumerate(runs)]
        )
        assert row["kept_up"] is verdict


def test_the_json_holds_the_machine_and_the_rows(tmp_path, monkeypatch, capsys):
    """As `mpim-lab bench pubsub --json FILE` writes it; the missing stand there too."""

    async def bench_pubsub(schedule, progress):
        assert (schedule.rounds, len(schedule.cases)) == (7, 3)
        return {"machine": MACHINE, "rows": rows_of("pubsub", samples_of_all_sorts())}

    monkeypatch.setattr(command, "bench_pubsub", bench_pubsub)
    assert (
        cli.main(
            ["bench", "pubsub", "--quick", "--rounds", "7", "--json", str(tmp_path / "found.json")]
        )
        == 0
    )
    report = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert report == {"machine": MACHINE, "rows": rows_of("pubsub", samples_of_all_sorts())}
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

    async def bench_live(rounds, seconds):
        raise LoadFailed("the kernel died")

    monkeypatch.setattr(command, "bench_live", bench_live)
    assert cli.main(["bench", "live"]) == 1
    assert capsys.readouterr().err == "mpim-lab bench: the kernel died\n"


def test_the_table_has_every_candidate_and_every_reason():
    """Also those without a number in it."""
    text = table_of(rows_of("pubsub", samples_of_all_sorts()), MACHINE)
    for who in ("mpim_lab", "peer", "limit", "open only", "absent: is not installed: pip"):
        assert f"\n  {who}" in text
    assert "limit: has no open loop (50,000 msg/s)" in text
    assert "Z80, 1 cores · CPython 3.11 · Valkey 9.0" in text


def test_the_table_of_live_has_both_ways_of_every_case():
    """The ratio is of two runs of the same round."""
    numbers = {"p50_ms": 1.0, "p99_ms": 2.0, "lost": 0}
    rates = [(WAYS[0], 100.0, 0), (WAYS[1], 90.0, 0), (WAYS[0], 300.0, 1), (WAYS[1], 300.0, 1)]
    rows = rows_of_live(
        [
            {"case": "c", "way": way, "round": n, "messages_per_s": rate} | numbers
            for way, rate, n in rates
        ]
    )
    assert [(row["ratio"], row["messages_per_s"], row["spread"]) for row in rows] == [
        (1.0, 200.0, [100.0, 300.0]),
        (0.95, 195.0, [90.0, 300.0]),
    ]
    text = live_table_of(rows, MACHINE)
    assert "c, nobody watches" in text and "c, charts drawn live" in text and "0.950×" in text


def test_the_picture_draws_everybody_who_has_numbers_and_names_them_once():
    """On one side or both, in one colour and shape; whoever has none is not drawn."""
    figure = picture_of({"machine": MACHINE, "rows": rows_of("pubsub", samples_of_all_sorts())})
    named = [drawn.name for drawn in figure.data if drawn.showlegend]
    assert sorted(named) == ["limit", "mpim_lab", "open only", "peer"]
    for who, sides in (("mpim_lab", 2), ("peer", 2), ("limit", 1), ("open only", 1)):
        own = [drawn for drawn in figure.data if drawn.name == who]
        assert len(own) == sides and all(len(drawn.x) == len(drawn.y) == 1 for drawn in own)
        assert len({(drawn.marker.color, drawn.marker.symbol) for drawn in own}) == 1


def test_the_picture_of_a_closed_loop_alone_has_its_latencies_beside_it():
    """Streams have no open loop; ten candidates are told apart."""
    whos = ["mpim_lab", *(f"peer {number}" for number in range(9))]
    samples = [Sample(who, CLOSED, 1, result(100.0)) for who in whos]
    figure = picture_of({"machine": MACHINE, "rows": rows_of("streams", samples)})
    assert len(figure.data) == 2 * len(whos)
    assert len({(drawn.marker.color, drawn.marker.symbol) for drawn in figure.data}) == len(whos)
    assert figure.layout.title.text.startswith("Streams")
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

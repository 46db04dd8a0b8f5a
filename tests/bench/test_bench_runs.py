"""`mpim-lab bench` from its arguments to its files, with a schedule that takes seconds."""

import json
import shutil
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from mpim_lab.bench import comparison
from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.command import BENCHES, run_bench_command
from mpim_lab.bench.limit import PROGRAM, measure_limit
from mpim_lab.bench.live import WAYS
from mpim_lab.bench.machine import describe_machine
from mpim_lab.errors import LoadFailed
from mpim_lab.load.redis import candidates
from mpim_lab.load.redis.candidates import CANDIDATES
from tests.conftest import missing

CLOSED, OPEN = Case(8), Case(offered_per_s=1_000)
COMPARED = ("mpim_lab", "redis-py pipelined", "coredis")


def quick(monkeypatch, bench, schedule):
    monkeypatch.setitem(BENCHES, bench, BENCHES[bench]._replace(quick=schedule))


def test_a_comparison_from_its_arguments_to_its_files(monkeypatch, tmp_path, capsys):
    """Ours, a peer that is there, one that is not, and the limit: each has its row in each case."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    quick(monkeypatch, "pubsub", Schedule((CLOSED, OPEN), rounds=5, seconds=0.1))
    there = candidates.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(
        candidates, "find_spec", lambda name: None if name == "coredis" else there(name)
    )
    monkeypatch.setattr(
        comparison, "candidates_for", lambda bench: {who: CANDIDATES[who] for who in COMPARED}
    )
    found, picture = tmp_path / "found.json", tmp_path / "found.html"
    arguments = [
        "pubsub",
        "--quick",
        "--rounds",
        "1",
        "--json",
        str(found),
        "--picture",
        str(picture),
    ]
    assert run_bench_command(arguments) == 0

    report = json.loads(found.read_text(encoding="utf-8"))
    assert report["machine"]["server"].startswith(("Valkey ", "Redis "))
    rows = {(row["who"], row["case"]): row for row in report["rows"]}
    assert set(rows) == {
        (who, str(case)) for who in (*COMPARED, "limit") for case in (CLOSED, OPEN)
    }
    for case in (CLOSED, OPEN):
        for who in COMPARED[:2]:
            row = rows[who, str(case)]
            assert "reason" not in row
            assert (row["bench"], row["rounds"], row["lost"], row["duplicates"]) == (
                "pubsub",
                1,
                0,
                0,
            )
            assert row["spread"][0] <= row["messages_per_s"] <= row["spread"][1]
            assert row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert "pip install 'mpim_lab[peers]'" in rows["coredis", str(case)]["reason"]
    assert rows["mpim_lab", str(OPEN)]["loop"] == "open"

    said = capsys.readouterr()
    assert all(f"\n  {who}" in said.out for who in (*COMPARED, "limit"))
    assert "round 1 · 8 tasks · mpim_lab: " in said.err
    assert all(who in picture.read_text(encoding="utf-8") for who in COMPARED[:2])


async def test_the_limit_is_a_rate(server):
    """What redis-benchmark of either kind says is understood."""
    if shutil.which(PROGRAM) is None:
        missing(f"{PROGRAM} is not installed")
    for url in (server.url, server.unix_url):
        assert await measure_limit(url, Case(128), 0.05, 100) > 0
    server.kill()
    with pytest.raises(LoadFailed, match=f"{PROGRAM} said: "):
        await measure_limit(url, CLOSED, 0.05, 100)


async def test_the_machine_is_described_with_the_server_it_measured(server):
    """And it can be written down as JSON."""
    machine = await describe_machine(server.url)
    assert ("Valkey" in machine["server"]) == ("valkey" in server.binary)
    assert {"cpu", "cores", "os", "python", "packages", "load_average", "measured_at"} <= set(
        machine
    )
    assert json.loads(json.dumps(machine)) == machine


@pytest.mark.parametrize("bench", ["pubsub", "streams", "live"])
@pytest.mark.parametrize(
    "name", ["no such directory/found.json", ".", "read-only.json", "read-only/found.json"]
)
def test_a_file_that_cannot_be_written_is_refused_before_the_run(
    bench, name, tmp_path, monkeypatch, capsys
):
    """Not after an hour of measuring."""
    (tmp_path / "read-only.json").write_text("{}")
    (tmp_path / "read-only").mkdir()
    opens = Path.open

    def refusing(path, *options, **named):  # root may write anyway
        if "read-only" in path.parts[-1] or "read-only" in path.parts[-2]:
            raise PermissionError(13, "Permission denied")
        return opens(path, *options, **named)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(SystemExit) as caught:
        run_bench_command([bench, "--json", str(tmp_path / name)])
    assert caught.value.code == 2
    assert "--json" in capsys.readouterr().err
    monkeypatch.undo()
    assert (tmp_path / "read-only.json").read_text() == "{}"


@pytest.mark.parametrize("rounds", ["0", "-1", "1.5", "many", ""])
def test_a_bad_number_of_rounds_is_refused(rounds, capsys):
    """Before anything starts, with the number."""
    with pytest.raises(SystemExit) as caught:
        run_bench_command(["pubsub", f"--rounds={rounds}"])
    assert caught.value.code == 2
    assert f"{rounds!r} is not a number of at least 1" in capsys.readouterr().err


def test_what_watching_costs_is_measured_in_a_kernel(monkeypatch, tmp_path, capsys):
    """Both ways of both cases: four rows, of which the unwatched are the measure."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    quick(monkeypatch, "live", Schedule((), rounds=1, seconds=0.3))
    assert run_bench_command(["live", "--quick", "--json", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    assert [row["who"] for row in rows] == [*WAYS, *WAYS]
    assert [row["vs_unwatched"] for row in rows[::2]] == [1.0, 1.0]
    assert all(row["lost"] == 0 and row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert all(row["vs_unwatched"] > 0 for row in rows)
    said = capsys.readouterr().out
    assert all(row["case"] in said and row["who"] in said for row in rows)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            CellExecutionError("\x1b[31mLoadFailed\x1b[39m", "LoadFailed", "it ended"),
            "LoadFailed: it ended",
        ),
        (CellTimeoutError("too slow"), "too slow"),
        (DeadKernelError("Kernel died"), "Kernel died"),
    ],
)
def test_a_kernel_that_fails_is_named(monkeypatch, capsys, error, told):
    """In plain words and with a status, whether the load in it failed or the kernel itself."""

    async def async_execute(self, **options):
        raise error

    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    monkeypatch.setattr(NotebookClient, "async_execute", async_execute)
    assert run_bench_command(["live", "--quick"]) == 1
    assert capsys.readouterr().err == f"mpim-lab bench: {told}\n"


def test_streams_are_compared_with_acknowledgements_and_without(monkeypatch, tmp_path):
    """Each candidate adds, consumes and loses nothing; what a guarantee costs stands beside it."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    quick(monkeypatch, "streams", Schedule((CLOSED, OPEN), rounds=1, seconds=0.1))
    there = candidates.find_spec  # type: ignore[attr-defined]
    peers = ("taskiq_redis", "faststream")
    monkeypatch.setattr(
        candidates, "find_spec", lambda name: None if name in peers else there(name)
    )
    found, picture = tmp_path / "found.json", tmp_path / "found.html"
    assert (
        run_bench_command(["streams", "--quick", "--json", str(found), "--picture", str(picture)])
        == 0
    )
    rows = {row["who"]: row for row in json.loads(found.read_text(encoding="utf-8"))["rows"]}
    assert {
        "mpim_lab",
        "mpim_lab, add_many",
        "mpim_lab, no group",
        "redis-py",
        "mpim_lab, Pub/Sub",
    } <= set(rows)
    drawn = picture.read_text(encoding="utf-8")
    for who in ("taskiq", "FastStream pipelined"):
        assert "pip install 'mpim_lab[peers]'" in rows.pop(who)["reason"]
    assert all(
        who in drawn for who in ("mpim_lab, add_many", "mpim_lab, no group", "redis-py pipelined")
    )
    for row in rows.values():
        assert (row["bench"], row["case"]) == ("streams", str(CLOSED))
        assert row["messages_per_s"] > 0
        assert (row["lost"], row["duplicates"]) == (0, 0)

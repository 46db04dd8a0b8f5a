"""The command line where people use it: plain terminals, closed pipes, wrong arguments."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import pytest

COMMAND = (sys.executable, "-m", "mpim_lab.cli")


async def run(*words, shell="", **environment):
    """Run a command; gives its status, output and complaints."""
    environment = {k: v for k, v in (os.environ | environment).items() if v is not None}
    argv = ("/bin/bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *COMMAND, *words)
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    out, complaints = await asyncio.wait_for(process.communicate(), 90)
    return process.returncode, out, complaints.decode(errors="replace")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("command", ["doctor", "demo"])
async def test_a_terminal_that_knows_few_characters_gets_others(command, encoding):
    """No error, and nothing that it cannot show."""
    status, out, complaints = await run(command, PYTHONIOENCODING=encoding)
    assert (status, complaints) == (0, "")
    assert out.decode(encoding)


async def test_what_a_terminal_knows_it_gets():
    """Only what it lacks is replaced."""
    assert "✔ Python" in (await run("doctor", PYTHONIOENCODING="utf-8"))[1].decode()
    assert b"+ Python" in (await run("doctor", PYTHONIOENCODING="ascii"))[1]


@pytest.mark.parametrize("command", ["doctor", "demo"])
async def test_a_reader_that_goes_away_ends_it_quietly(command):
    """As with any other program: no traceback, and the status of SIGPIPE."""
    status, _, complaints = await run(command, shell="| true")
    assert (status, complaints) == (141, "")


@pytest.mark.parametrize("command", ["doctor", "demo"])
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
async def test_output_that_is_closed_is_no_failure(command, closed):
    """What would be written there is dropped."""
    assert await run(command, shell=closed) == (0, b"", "")


async def test_a_full_disk_is_said_in_one_line():
    """Status 1, no traceback."""
    status, _, complaints = await run("doctor", shell="> /dev/full")
    assert (status, complaints) == (1, "mpim-lab: No space left on device\n")


@pytest.mark.parametrize(
    "url",
    [
        "garbage",
        "http://h",
        "redis://h:99999",
        "redis://h:1/abc",
        "redis://h?foo=1",
        "redis://[::1",
        "redis://:1/pa@h:1",
    ],
)
async def test_the_doctor_names_what_is_wrong_with_a_url(url):
    """In a line of its report; nothing that may be a piece of a password is shown."""
    status, out, complaints = await run("doctor", MPIM_REDIS_URL=url)
    assert (status, complaints) == (1, "") and b"pa@h" not in out
    assert "✘ server (MPIM_REDIS_URL)" in out.decode()


@pytest.mark.parametrize(
    "name", ["MPIM_REDIS_URL", "MPIM_SERVER_BINARY", "MPIM_DATABASE_URL", "MPIM_SECRET"]
)
async def test_a_blank_setting_is_as_good_as_none(name):
    """As a shell leaves it when a variable is empty."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "serve", "--port", "0", "--gateways", "1"),
        stdout=subprocess.PIPE,
        env=os.environ | {name: " "},
    )
    assert (await asyncio.wait_for(process.stdout.readline(), 60)).startswith(b"gw-1: http")
    process.send_signal(signal.SIGINT)
    await asyncio.wait_for(process.communicate(), 60)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("soak.runner", "--at-once", "0"), 2),
        (("soak.runner", "--schedules", "-1"), 2),
        (("soak.api.campaign", "--processes", "0"), 2),
        (("soak.api.campaign", "--steps", "garbage"), 2),
        (("soak.api.campaign", "--only", "nosuch"), 2),
        (("soak.api.campaign", "--server", "nosuch"), 1),
    ],
    ids=str,
)
async def test_a_soak_names_what_it_cannot_do(words, status):
    """In one line; it does not wait for something that never comes."""
    program, *options = words
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"mpim_lab.{program}", *options), stderr=subprocess.PIPE
    )
    _, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == status and len(complaints.splitlines()) == 1


def heed_interrupts():
    """Undo what a shell does to its background jobs, which ignore Ctrl-C, as do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("after_s", [0, 0.03, 1.5])
async def test_an_interrupt_ends_it_quietly(after_s):
    """Ctrl-C, whatever the demo is doing: status 130, no traceback."""
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "demo"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    await process.stdout.readline()
    await asyncio.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130 and complaints == b""


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--gateways", "0"],
        ["serve", "--gateways", "-1"],
        ["serve", "--port", "99999"],
        ["serve", "--port", "many"],
        ["serve", "--nonsense"],
        ["doctor", "now"],
        ["bench", "nonsense"],
        ["bench", "pool", "--json", "/proc/nowhere.json"],
        ["bench", "pool", "--json", "/proc"],
    ],
    ids=" ".join,
)
async def test_wrong_arguments_are_named_with_status_2(words):
    """In one line or with the usage, and no traceback."""
    status, out, complaints = await run(*words)
    assert status == 2 and out == b"" and complaints and "Traceback" not in complaints


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("database", {"MPIM_DATABASE_URL": "postgres://u:p@h/db"}),
        ("database", {"MPIM_DATABASE_URL": "sqlite+aiosqlite:////nowhere/x.db"}),
        ("secret", {"MPIM_SECRET": "short"}),
        ("MPIM_REDIS_URL", {"MPIM_REDIS_URL": "redis://127.0.0.1:1"}),
        ("not a server's URL", {"MPIM_REDIS_URL": "http://127.0.0.1"}),
    ],
    ids=str,
)
async def test_a_setting_that_serve_cannot_use_is_named(name, environment):
    """Status 1 or 2, and what is wrong with it."""
    status, _, complaints = await run("serve", "--port", "0", "--gateways", "1", **environment)
    assert status in (1, 2) and name.lower() in complaints.lower() and "Traceback" not in complaints


async def test_a_port_in_use_is_named():
    """Status 1, and the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, complaints = await run("serve", "--port", str(port), "--gateways", "1")
    assert status == 1 and str(port) in complaints and "Traceback" not in complaints


async def test_a_notebook_that_is_not_there_is_named(tmp_path):
    """Likewise one that is none."""
    (tmp_path / "none.ipynb").write_text("{")
    for path in ("nosuch.ipynb", str(tmp_path / "none.ipynb")):
        status, _, complaints = await run("notebooks", path)
        assert status == 1 and path in complaints and "Traceback" not in complaints


async def test_the_doctor_works_without_a_home_and_a_place_for_temporary_files():
    """It needs neither."""
    status, _, complaints = await run("doctor", HOME="/proc", TMPDIR="/nowhere")
    assert (status, complaints) == (0, "")


def test_what_the_core_alone_lacks_is_named_with_its_remedy():
    """`pip install mpim_lab` brings the queue and the messaging system.

    The rest of the commands say what they need.
    """
    program = (
        "import sys; sys.modules['plotly'] = None; "
        "from mpim_lab.cli import main; sys.exit(main(['bench', 'pubsub']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert "mpim-lab: plotly is not installed: pip install 'mpim_lab[lab]'\n" in run.stderr

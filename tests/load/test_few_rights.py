"""Every chapter on the reader's own server: few rights, a password, a database number."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from redis.asyncio import Redis

from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.lab.server.embedded import EmbeddedServer
from tests.conftest import SERVERS, missing

pytestmark = pytest.mark.timeout(300)
PATHS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))
FEW_RIGHTS = ("on", ">pa ss", "~lab-*", "&*", "+@all", "-@admin", "-@dangerous")


# Which server it is makes little difference here, and each run takes a minute: Redis gets one
# chapter.
CASES = [(path, "valkey") for path in PATHS] + [
    (path, "redis") for path in PATHS if path.stem.startswith("02")
]


@pytest.fixture
async def readers_server(kind):
    """The reader's own.

    It asks for a password, and the lab may do nothing there that is dangerous.
    """
    binary = SERVERS[kind]
    if binary is not None and shutil.which(binary) is None:
        missing(f"{binary} is not installed")
    async with EmbeddedServer(binary) as server, Redis.from_url(server.url, db=3) as owner:
        await owner.execute_command("ACL", "SETUSER", "lab", *FEW_RIGHTS)
        await owner.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
        await owner.set("mine", "1")
        yield server.url.replace("redis://", "redis://lab:pa%20ss@").replace("/0", "/3"), owner


@pytest.mark.parametrize(("path", "kind"), CASES, ids=lambda value: getattr(value, "stem", value))
async def test_a_chapter_runs_from_top_to_bottom_with_few_rights(
    path, readers_server, monkeypatch, tmp_path
):
    """A cell that needs more says so in one sentence.

    Nothing is left behind, and what was there is there.
    """
    url, owner = readers_server
    monkeypatch.setenv("MPIM_REDIS_URL", url)
    monkeypatch.setenv("MPIM_PROGRESS", str(tmp_path / "progress.json"))
    notebook = nbformat.read(path, as_version=4)
    await NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).async_execute()
    said = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text" in output
    ]
    left_out = [line for text in said for line in text.splitlines() if line.startswith("Left out")]
    assert all(line.endswith(".") for line in left_out)
    assert bool(left_out) == (path.stem[:2] in ("01", "02", "04", "05", "07", "08")), left_out

    async def is_as_it_was():
        return await owner.keys() == [b"mine"]

    await wait_until(is_as_it_was, "the end of what the run had there", timeout_s=30)

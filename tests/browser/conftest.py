"""A real JupyterLab with the notebooks, and a real Chromium that looks at it."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from mpim_lab.notebook_store import METADATA
from tests.browser.notebook_page import NotebookPage
from tests.conftest import missing

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory):
    """Start JupyterLab on a free loopback port, on a copy of the notebooks, with nobody's settings."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--IdentityProvider.token=",
        "--allow-root",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        cwd=folder / "notebooks",
        env=os.environ | {"HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder / "config")},
        stdout=(folder / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}/lab"
    try:
        _wait_for(url, process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(url, process, log):
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2_000:]}")


@pytest.fixture
def notebook_of(jupyter, tmp_path_factory):
    """Write a notebook with these cells beside the others; gives its name."""

    def write(name, *sources):
        folder = next(tmp_path_factory.getbasetemp().glob("lab*")) / "notebooks"
        cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), folder / name)
        return name

    return write


@pytest.fixture(scope="session")
def chromium():
    """Start the system's Chromium."""
    playwright = (
        pytest.importorskip("playwright.sync_api") if not os.environ.get("MPIM_TEST_FULL") else None
    )
    if playwright is None:
        from playwright import sync_api as playwright
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing("Chromium is not installed: on Debian and Ubuntu, apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(chromium):
    """Open an empty page; what went wrong in it fails the tests."""
    page = chromium.new_page(viewport={"width": 1280, "height": 1300})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


@pytest.fixture(scope="module")
def chapter(request, page, jupyter):
    """The chapter that a file asks for with `chapters(...)`, opened and run from top to bottom."""
    chapter = NotebookPage(page, jupyter, request.param)
    chapter.run_all()
    keep(page, f"chapter-{int(chapter.name[:2])}")
    return chapter


def chapters(*names):
    """Mark a file whose tests are for each of these chapters, one chapter after another."""
    return pytest.mark.parametrize("chapter", names, indirect=True)


def keep(page_or_element, name):
    """Keep a screenshot, to be looked at."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page_or_element.screenshot(path=PICTURES / f"{name}.png")

"""Servers for tests: every test that takes `server` runs on each server that is installed."""

import os
import shutil

import pytest

from mpim_lab.lab.server.embedded import EmbeddedServer

SERVERS = {"valkey": None, "redis": "redis-server"}


@pytest.fixture(params=list(SERVERS))
async def server(request):
    """A server of this test's own: the Valkey that comes with us, and Redis where it is installed."""
    binary = SERVERS[request.param]
    if binary is not None and shutil.which(binary) is None:
        missing(f"{binary} is not installed: the same tests ran on the embedded Valkey")
    async with EmbeddedServer(binary) as running:
        yield running


@pytest.fixture
async def one_server():
    """A Valkey of this test's own, where it makes no difference which server it is."""
    async with EmbeddedServer() as running:
        yield running


@pytest.fixture(params=list(SERVERS))
def lab_server(request, monkeypatch):
    """Have experiments, which open their own server, open this one."""
    binary = SERVERS[request.param]
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    if binary is not None:
        if shutil.which(binary) is None:
            missing(f"{binary} is not installed: the same tests ran on the embedded Valkey")
        monkeypatch.setenv("MPIM_SERVER_BINARY", binary)


def missing(reason):
    """Skip a test for something that is not installed; where everything must be (CI with FULL set), fail."""
    if os.environ.get("MPIM_TEST_FULL"):
        pytest.fail(reason)
    pytest.skip(reason)

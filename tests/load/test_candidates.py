"""The clients that the bench compares with, each in one short run."""

import pytest

from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.load.load import measure
from mpim_lab.load.redis.candidates import CANDIDATES
from tests.conftest import missing


@pytest.mark.parametrize(
    "who", ["coredis", "valkey-glide", "streams:FastStream pipelined", "streams:taskiq"]
)
async def test_a_peer_runs_as_ours_does(who):
    """Everything it publishes arrives."""
    if reason := CANDIDATES[who].missing:
        missing(reason)
    async with EmbeddedServer() as server:
        result = await measure(server.url, who, tasks=1, seconds=0.1)
    assert (result.lost, result.duplicates) == (0, 0)
    assert result.reordered == 0 or who == "streams:taskiq"  # its worker runs many tasks at once
    assert result.received == result.sent > 0

"""A gateway and a hundred thousand frames that somebody has tampered with."""

import pytest

from tests.ch08_im.test_hostile_clients import fuzz

pytestmark = pytest.mark.timeout(600)


async def test_a_hundred_thousand_fuzzed_frames_harm_nobody():
    """Each is answered, or ends its own connection; others are served as before."""
    await fuzz(connections=50)

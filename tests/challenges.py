"""What the tests of all challenges share: right solutions pass, wrong ones break the guarantee that they break."""

import os

import pytest

from tests.support import REPEATS

IS_THOROUGH = os.environ.get("MPIM_TEST_THOROUGH", "") == "1"
# `make test` tries one wrong solution for each guarantee, `make challenges` all of them.
thorough = pytest.mark.skipif(not IS_THOROUGH, reason="`make challenges` tries all of them")


def first_always(wrong, count):
    """Parametrize by wrong solutions and their guarantees; `make test` tries the first ones only."""
    return [
        pytest.param(bad, number, marks=() if place < count else thorough, id=bad.__name__)
        for place, (bad, number) in enumerate(wrong.items())
    ]


async def assert_passes(challenge, solution):
    """A right solution passes: the first schedules in `make test`, all of them in `make challenges`."""
    result = await challenge().check(solution, quick=not IS_THOROUGH)
    assert result.passed, f"{solution.__name__}: {result!r}"
    assert result.explored > 0


async def assert_fails(challenge, solution, guarantee, *, text=""):
    """A wrong solution fails every time, for one of these guarantees; 0 is the interface."""
    made = challenge()
    allowed = guarantee if isinstance(guarantee, tuple) else (guarantee,)
    for _ in range(REPEATS):
        result = await made.check(solution)
        assert not result.passed, f"{solution.__name__} passed"
        assert result.failure is not None, f"{solution.__name__}: {result!r}"
        number = int(result.failure.guarantee.partition(":")[0] or 0)
        assert number in allowed, f"{solution.__name__}: {result!r}"
        assert text in repr(result), f"{solution.__name__}: {result!r}"


def assert_hints_come_one_at_a_time(*challenges):
    """The last one stays."""
    for challenge in challenges:
        hints = [challenge.hint() for _ in range(4)]
        assert hints[0].startswith("hint 1 of 3")
        assert hints[2] == hints[3]

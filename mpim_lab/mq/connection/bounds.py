"""Bounds: a number that makes no sense is refused by its name before it is used."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

from mpim_lab.errors import InvalidParameter

# as large as a whole number may be: what servers, databases and JSON all hold exactly
MAX_INT = 2**53
# As long as anything waits; what is meant to last for ever is infinite, where that is allowed.
MAX_WAIT_S = 366 * 86_400.0


def check_bounds(low: float, high: float, **given: float | Sequence[float]) -> None:
    """Every number given, alone or in a sequence, is from `low` to `high`.

    A whole one, if `low` is an int.

    Raises InvalidParameter, with the parameter's name.

    >>> check_bounds(1, 100, tasks=(1, 16), rounds=5)
    >>> check_bounds(1, 100, tasks=(1, 0))
    Traceback (most recent call last):
    mpim_lab.errors.InvalidParameter: tasks=0: a whole number from 1 to 100
    """
    kind, what = (Real, "a number") if isinstance(low, float) else (Integral, "a whole number")
    for name, value in given.items():
        for each in (
            value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        ):
            if isinstance(each, bool) or not (isinstance(each, kind) and low <= each <= high):
                raise InvalidParameter(f"{name}={each!r:.60}: {what} from {low:,} to {high:,}")


def check_times(max_s: float = MAX_WAIT_S, **given: float) -> None:
    """Every time given, in seconds, is above 0 and at most `max_s`; math.inf: it may be "never".

    Raises InvalidParameter, with the parameter's name.

    >>> check_times(wait_s=0.5), check_times(math.inf, max_idle_s=math.inf)
    (None, None)
    >>> check_times(wait_s=math.inf)
    Traceback (most recent call last):
    mpim_lab.errors.InvalidParameter: wait_s=inf: seconds, above 0 and at most 31,622,400
    """
    for name, value in given.items():
        if isinstance(value, bool) or not (isinstance(value, Real) and 0 < value <= max_s):
            limit = "" if max_s == math.inf else f" and at most {max_s:,.0f}"
            raise InvalidParameter(f"{name}={value!r:.60}: seconds, above 0{limit}")


def check_whole(minimum: int = 1, **given: object) -> None:
    """Every number given is a whole one from `minimum` on, small enough for a server.

    Raises InvalidParameter, with the parameter's name.
    """
    check_bounds(minimum, MAX_INT // 2, **given)  # type: ignore[arg-type]

"""Bounds: a number that makes no sense is named at once, before a server is started for it."""

from collections.abc import Sequence
from numbers import Integral, Real

from mpim_lab.errors import InvalidParameter


def check_bounds(low: float, high: float, **given: float | Sequence[float]) -> None:
    """Every number given, alone or in a sequence, is from `low` to `high`; a whole one, if `low` is an int.

    Raises InvalidParameter, with the parameter's name.

    >>> check_bounds(1, 100, tasks=(1, 16), rounds=5)
    >>> check_bounds(1, 100, tasks=(1, 0))
    Traceback (most recent call last):
    mpim_lab.errors.InvalidParameter: tasks=0: a whole number from 1 to 100
    """
    kind, what = (Real, "a number") if isinstance(low, float) else (Integral, "a whole number")
    for name, value in given.items():
        for each in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
            if isinstance(each, bool) or not (isinstance(each, kind) and low <= each <= high):
                raise InvalidParameter(f"{name}={each!r}: {what} from {low:,} to {high:,}")

"""Bounds: what a number that a caller gives may be. One that is no good is refused by name, before anything is sent."""

from numbers import Integral

from mpim_lab.errors import InvalidParameter

_MOST = 2**52  # in thousandths, too, and added to a time of now, what the server and its scripts reckon with


def check_whole(least: int = 1, **numbers: object) -> None:
    """Refuse what is no whole number from `least` on. Raise InvalidParameter, which names it.

    >>> check_whole(prefetch=1.5)
    Traceback (most recent call last):
    mpim_lab.errors.InvalidParameter: prefetch=1.5: a whole number, at least 1
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Integral) or int(number) < least:
            raise InvalidParameter(f"{name}={number!r}: a whole number, at least {least}")
        if int(number) > _MOST:
            raise InvalidParameter(f"{name}={number}: at most {_MOST:,}")

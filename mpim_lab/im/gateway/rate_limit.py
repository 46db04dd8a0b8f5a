"""TokenBucket: how much one client may request. A rule without a clock: time is passed in."""

from mpim_lab.errors import InvalidParameter


class TokenBucket:
    """A rate limit: `rate_per_s` requests a second, and `burst` at once after a rest.

        >>> bucket = TokenBucket(rate_per_s=10, burst=2)
        >>> [bucket.try_acquire(now=0.0) for _ in range(3)]
        [True, True, False]
        >>> bucket.try_acquire(now=0.1), bucket.try_acquire(now=0.1)
        (True, False)

    Source: "token bucket", RFC 2697's single rate meter without its colours.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, *, rate_per_s: float, burst: float, now: float = 0.0) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise InvalidParameter(
                f"rate_per_s={rate_per_s}, burst={burst}: above 0, and at least 1"
            )
        self._rate, self._burst, self._tokens, self._updated_at = rate_per_s, burst, burst, now

    def try_acquire(self, now: float) -> bool:
        """Take a token. Return False if there is none: the request must not pass now."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def refund(self) -> None:
        """Return the last token: the request was not made after all."""
        self._tokens = min(self._burst, self._tokens + 1)

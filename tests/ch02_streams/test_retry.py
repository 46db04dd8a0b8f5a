"""RetryPolicy: when a failed delivery is tried again, and when it is given up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy

TRIES = st.integers(1, 200)
CHANCES = st.floats(0, 1)
BACKOFFS = st.builds(Backoff, initial_s=st.floats(0.001, 1), max_s=st.floats(1, 100))


@given(TRIES, BACKOFFS, st.integers(1, 10_000), CHANCES)
def test_there_is_another_try_exactly_while_tries_are_left(
    max_attempts, backoff, deliveries, jitter
):
    """Deliveries are counted whoever got them; the last one's failure has no delay after it."""
    delay_s = RetryPolicy(max_attempts, backoff).delay_s(deliveries, jitter)
    assert (delay_s is None) == (deliveries >= max_attempts)


@given(TRIES, BACKOFFS, st.integers(1, 10_000), CHANCES)
def test_a_delay_is_bounded(max_attempts, backoff, deliveries, jitter):
    """Never below half of the first one, never above the most."""
    delay_s = RetryPolicy(max_attempts, backoff).delay_s(deliveries, jitter)
    assert delay_s is None or backoff.initial_s / 2 <= delay_s <= backoff.max_s


@given(TRIES, BACKOFFS, CHANCES)
def test_a_rule_that_is_followed_ends_after_as_many_tries_as_it_says(max_attempts, backoff, jitter):
    """Never tried for ever; the delays do not get shorter."""
    rule, delays_s = RetryPolicy(max_attempts, backoff), []
    while (delay_s := rule.delay_s(len(delays_s) + 1, jitter)) is not None:
        delays_s.append(delay_s)
    assert len(delays_s) + 1 == max_attempts
    assert delays_s == sorted(delays_s)


@pytest.mark.parametrize("max_attempts", [0, -1])
def test_a_rule_without_a_try_is_refused(max_attempts):
    """An entry is delivered at least once."""
    with pytest.raises(InvalidParameter, match=f"max_attempts={max_attempts}"):
        RetryPolicy(max_attempts=max_attempts)


@pytest.mark.parametrize(
    "times", [(0, 1), (-1, 1), (2, 1), (float("nan"), 1), (1, float("nan")), (1, float("inf"))]
)
def test_a_backoff_that_makes_no_sense_is_refused(times):
    """A delay of no time is a busy loop; one for ever is no retry."""
    with pytest.raises(InvalidParameter):
        Backoff(*times)


@pytest.mark.parametrize(
    "name", ["timeout_s", "close_timeout_s", "connect_timeout_s", "max_commands", "max_bytes"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_make_no_sense_are_refused(name, value):
    """A wait of no time, and one that never ends."""
    with pytest.raises(InvalidParameter):
        ConnectionConfig(**{name: value})
    with pytest.raises(InvalidParameter):
        ConnectionConfig(timeout_s=float("inf"))

"""The rules of the pool: ageing, outages, commands."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidMessage, NotConnected
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.command_state import ConnectionState, blocking_seconds, require_single_reply
from mpim_lab.mq.pool.policies import CircuitBreaker, IdlePolicy, ServerLoad, least_loaded


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_connection_is_retired_at_its_limits_and_not_before(age, idle):
    """Whichever comes first; age counts from opening, idleness from the last use."""
    rule, idle = IdlePolicy(check_idle_after_s=5, max_idle_s=30, max_lifetime_s=60), min(age, idle)
    why = rule.expiry_reason(opened_at=0.0, idle_since=age - idle, now=age)
    assert why == ("too old" if age >= 60 else "idle too long" if age - (age - idle) >= 30 else "")


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.floats(0, 1))
def test_a_server_is_passed_over_for_longer_with_each_failure_and_not_at_all_after_a_success(
    outcomes, chance
):
    """Never longer than the backoff's longest."""
    outage, now, before = CircuitBreaker(Backoff(initial_s=1.0, max_s=8.0)), 0.0, 0.0
    for succeeded in outcomes:
        attempt = outage.on_attempt(now, chance)
        if succeeded:
            outage.record_success()
            assert not outage.is_open(now)
            before = 0.0
        else:
            outage.record_failure(attempt, NotConnected("refused"), now, chance)
            assert outage.is_open(now) and before - 1e-9 <= outage.open_until - now <= 8.0 + 1e-9
            before, now = outage.open_until - now, outage.open_until
            assert not outage.is_open(now)


def test_attempts_that_fail_together_count_as_one():
    """Sixteen callers run into the same dead server.

    It is not passed over for sixteen times as long.
    """
    outage = CircuitBreaker(Backoff(initial_s=1.0, max_s=1000.0))
    attempts = [outage.on_attempt(0.0, 1.0) for _ in range(16)]
    for attempt in attempts:
        outage.record_failure(attempt, NotConnected("refused"), 0.5, 1.0)
    assert (outage.failures, outage.open_until) == (1, 1.5)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 99)), max_size=8))
def test_the_least_busy_server_is_one_than_which_none_is_less_busy(servers):
    """Of equals one that costs nothing, and of those the one lent longest ago.

    None if there is none.
    """
    loads = [ServerLoad(str(number), *server) for number, server in enumerate(servers)]
    chosen = least_loaded(loads)
    assert (chosen is None) == (not loads)
    if chosen is not None:
        assert servers[int(chosen)] == min(servers)


@pytest.mark.parametrize(
    ("commands", "left"),
    [
        (["GET k", "MULTI", "SET k 1", "EXEC"], ""),
        (["WATCH k", "MULTI", "EXEC"], ""),
        (["WATCH k", "GET k", "UNWATCH"], ""),
        (["WATCH k", "MULTI", "DISCARD"], ""),
        (["CLIENT ID", "client list", "SCRIPT LOAD x"], ""),
        (["WATCH k"], "WATCH without EXEC"),
        (["multi", "SET k 1"], "MULTI without EXEC"),
        (["WATCH k", "MULTI", "UNWATCH"], "MULTI without EXEC"),
        (["SELECT 3", "MULTI", "EXEC"], "SELECT"),
        (["AUTH x", "GET k"], "AUTH"),
        (["CLIENT TRACKING ON"], "CLIENT TRACKING"),
        (["SCRIPT DEBUG YES"], "SCRIPT DEBUG"),
    ],
)
def test_what_a_user_leaves_on_the_connection_is_named(commands, left):
    """By the commands' names, in capitals or not, as bytes or not.

    With a first word of two or not.
    """
    forms = [
        str.split,
        lambda text: [word.encode() for word in text.split()],
        lambda text: text.rsplit(" ", 1),
    ]
    for form in forms:
        leftovers = ConnectionState()
        for command in commands:
            leftovers.observe(form(command))
        assert leftovers.dirty_reason == left


@pytest.mark.parametrize(
    "words",
    [
        ["SUBSCRIBE", "c"],
        [b"psubscribe", "c*"],
        ["MONITOR"],
        ["client reply", "OFF"],
        [""],
        [],
        [" ", "GET"],
        [1.5],
        [None],
    ],
)
def test_what_is_not_answered_by_one_reply_is_refused(words):
    """Whoever waited for the reply would wait in vain, or take somebody else's."""
    with pytest.raises(InvalidMessage):
        require_single_reply(words)


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        ("BRPOP a b 2", 2.0),
        ("blmove a b LEFT RIGHT 0.5", 0.5),
        ("BLMPOP 3 1 k LEFT", 3.0),
        ("BZPOPMIN z 0", math.inf),
        ("WAIT 1 250", 0.25),
        ("XREADGROUP GROUP g c COUNT 1 BLOCK 1500 STREAMS s >", 1.5),
        ("XREAD STREAMS BLOCK 0", 0.0),
        ("XREAD BLOCK 0 STREAMS s $", math.inf),
        ("BLPOP k soon", 0.0),
        ("XREAD BLOCK", 0.0),
        ("SET BLPOP 5", 0.0),
    ],
)
def test_how_long_a_command_blocks_is_read_from_it(command, seconds):
    """0 stands for ever on the server; what the server will refuse blocks for no time."""
    assert blocking_seconds(command.split()) == seconds

"""The history of a route: which answers of `where` some order of the operations explains."""

import math

import pytest

from mpim_lab.chapters.ch08_im.route_history import Operation, first_contradiction


def done(method, began, ended, connection="", result=None, returned=True):
    """An operation of the gateway "g<connection>"."""
    return Operation(method, f"g{connection}", "bob", connection, began, ended, returned, result)


def rule_of(*operations):
    """Return which rule a history breaks; a lifetime is 10 s."""
    found = first_contradiction(operations, 10.0)
    return found and found.rule


def test_what_happens_at_the_same_time_may_have_happened_in_either_order():
    """Two binds that overlap: either is the last one, and then it stays so."""
    binds = [done("bind", 0, 5, "1"), done("bind", 1, 4, "2")]
    for found in ("g1", "g2"):
        assert rule_of(*binds, done("where", 6, 7, result=found)) is None
    answers = [done("where", 6, 7, result="g1"), done("where", 8, 9, result="g2")]
    assert rule_of(*binds, *answers) == "found"


def test_what_failed_may_have_been_done_before_it_was_given_up_or_never():
    """But not afterwards."""
    binds = [done("bind", 0, 1, "1"), done("bind", 2, 3, "2", returned=False)]
    for found in ("g1", "g2"):
        assert rule_of(*binds, done("where", 4, 5, result=found)) is None
    later = [done("bind", 4, 5, "3"), done("where", 6, 7, result="g2")]
    assert rule_of(*binds, *later) == "found"


def test_who_never_hears_of_its_command_may_have_been_heard():
    """A gateway that died in its bind."""
    died = done("bind", 0, math.inf, "1", returned=False)
    for found in (None, "g1"):
        assert rule_of(died, done("where", 4, 5, result=found)) is None


@pytest.mark.parametrize(
    ("rule", "operations"),
    [
        ("found", [done("bind", 0, 1, "1"), done("where", 2, 3, result="g")]),
        (
            "gone",
            [done("bind", 0, 1, "1"), done("unbind", 2, 3, "1"), done("where", 4, 5, result="g1")],
        ),
        (
            "owned",
            [done("bind", 0, 1, "1"), done("unbind", 2, 3, "2"), done("where", 4, 5)],
        ),
        ("timed", [done("bind", 0, 1, "1"), done("where", 12, 13, result="g1")]),
        ("timed", [done("bind", 0, 1, "1"), done("where", 8, 9)]),
        (None, [done("bind", 0, 1, "1"), done("where", 10, 10.5)]),
        (None, [done("bind", 0, 1, "1"), done("where", 10, 10.5, result="g1")]),
        (
            "owned",
            [done("bind", 0, 1, "1"), done("renew", 8, 9, "2"), done("where", 12, 13, result="g1")],
        ),
    ],
)
def test_each_rule_is_known_by_its_breach(rule, operations):
    """Answers that are wrong, too late, or too early by more than a little."""
    assert rule_of(*operations) == rule

"""The rules of a lease: what must have come out of it for a caller."""

import asyncio
from collections.abc import Set
from dataclasses import dataclass, field

from mpim_lab.chapters.ch07_pool.learner_pool import Caller, Line
from mpim_lab.errors import (
    CommandTimeout,
    ConnectionLost,
    InvalidParameter,
    MpimError,
    NotConnected,
)
from mpim_lab.lab.exercise.solution import Violation


@dataclass
class LeaseFacts:
    """What is known of a run.

    Args:
        size: how many slots the pool has.
        disturbed: the names of connections at which the schedule strikes.
        lines: all connections that were opened.
        expected_errors: what callers raised on purpose, and what opening a connection did.
    """

    size: int
    disturbed: Set[str]
    lines: list[Line] = field(default_factory=list)
    expected_errors: list[BaseException] = field(default_factory=list)


def violation_of(caller: Caller, facts: LeaseFacts) -> Violation | None:
    """Return the guarantee that does not hold for a caller, if there is one."""
    name, ended = caller.name, caller.ended_with
    if caller.phase == "asking":
        lent = sum(line.borrower is not None for line in facts.lines)
        text = f"{name} waits for ever: {lent} of {facts.size} slots are taken"
        return Violation(text, 4, name)
    if caller.phase != "ended":
        return Violation(f"{name} does not come out of its lease", 4, name)
    if caller.raised is not None:
        return _of_raised(caller, caller.raised, facts)
    if caller.cancelled_in in ("asking", "has it"):
        if isinstance(ended, asyncio.CancelledError):
            return None
        got = "went on" if ended is None else f"got {_text(ended)}"
        return Violation(f"{name} was cancelled, and {got}", 5, name, ended)
    if ended is None or ended in facts.expected_errors or caller.cancelled_in:
        return None
    return _of_unexpected(caller, ended)


def _of_raised(caller: Caller, raised: BaseException, facts: LeaseFacts) -> Violation | None:
    """What was raised in the lease must come out of it; was it the connection's fault?"""
    ended, name, line = caller.ended_with, caller.name, caller.line
    is_cancelled = caller.cancelled_in and isinstance(ended, asyncio.CancelledError)
    if ended is not raised and not is_cancelled:
        got = "nothing" if ended is None else _text(ended)
        text = f"{name} raised {_text(raised)} in its lease, and {got} came out of it"
        return Violation(text, 5, name, ended)
    if not isinstance(raised, MpimError) or raised in facts.expected_errors:
        return None
    if line is not None and (line.is_cut or line.actor.name in facts.disturbed):
        return None
    return Violation(f"{name} was given a connection of no use: {_text(raised)}", 2, name)


def _of_unexpected(caller: Caller, ended: BaseException) -> Violation:
    """Something came out of the lease that was not raised in it."""
    name, is_own = caller.name, caller.has_entered or caller.refused is not None
    if isinstance(ended, InvalidParameter):
        return Violation(f"the lease of {name} raised {_text(ended)}", 4, name, ended)
    if isinstance(ended, MpimError) and not caller.has_entered:
        return Violation(f"{name} was given no connection: {_text(ended)}", 2, name, ended)
    return Violation(f"the lease of {name} raised {_text(ended)}", 5 if is_own else 0, name, ended)


def _text(error: BaseException) -> str:
    """An error in words; those of connections name a path that is another one in each run."""
    if isinstance(error, CommandTimeout | ConnectionLost | NotConnected):
        return type(error).__name__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

"""Replies: many commands, one future. A task that sends a hundred commands at once need not be woken a hundred times.

Source: https://valkey.io/topics/pipelining/
"""

import asyncio
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol


class Waits(Protocol):
    """What stands in the line of commands that wait for their answers: a future, or something that is told at once."""

    def done(self) -> bool:
        """It has been told, or nobody waits any more: what comes after that is read by nobody."""

    def set_result(self, reply: Any, /) -> None:
        """The command's reply."""

    def set_exception(self, error: Any, /) -> None:
        """What went wrong instead."""


class Replies(asyncio.Future[list[Any]]):
    """The replies of `count` commands in their order; an error stands in the place of a reply.

    It stands in the line of waiting commands once for each of them, as the futures of single commands do, and is done when
    all have been answered, or have failed. What comes after that, or after it was cancelled, is read by nobody.

        >>> loop = asyncio.new_event_loop()
        >>> replies = Replies(2, loop=loop)
        >>> replies.set_result(b"1-0"), replies.done()
        (None, False)
        >>> replies.set_result(b"2-0"), replies.result()
        (None, [b'1-0', b'2-0'])
        >>> loop.close()
    """

    def __init__(self, count: int, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._count, self._replies = count, list[Any]()

    @property
    def count(self) -> int:
        """How many commands it stands for."""
        return self._count

    def set_result(self, reply: Any) -> None:
        """Take in the next command's reply."""
        replies = self._replies
        replies.append(reply)
        if len(replies) == self._count and not self.done():
            self._replies = []  # what comes late is not put into the list that was given away
            super().set_result(replies)

    set_exception = set_result  # what became of one command, not of all


def fail(reply: Waits, error: Exception) -> None:
    """Whoever waits for this reply is told what went wrong instead; whoever no longer waits is not."""
    if not reply.done():
        reply.set_exception(error)


def retrieved(reply: asyncio.Future[Any]) -> None:
    """Of the answer to a command that nobody awaits: an error in it is no news."""
    if not reply.cancelled():
        reply.exception()


def that_fit(commands: Sequence[bytes], places: int, max_bytes: int) -> Sequence[bytes]:
    """The first of the packed commands: as many as there are places for, until `max_bytes` are reached; at least one.

    >>> that_fit([b"PING"] * 5, places=3, max_bytes=100)
    [b'PING', b'PING', b'PING']
    >>> that_fit([b"PING"] * 5, places=3, max_bytes=5)
    [b'PING', b'PING']
    """
    some = commands[: max(1, places)]
    sizes = list(accumulate(map(len, some)))
    if sizes[-1] <= max_bytes:
        return some
    return some[: 1 + sum(size < max_bytes for size in sizes)]

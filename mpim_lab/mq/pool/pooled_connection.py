"""PooledConnection: what a caller holds while it has a connection of its own."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpim_lab.errors import (
    CommandRejected,
    InvalidParameter,
    MpimError,
    NotConnected,
    PartlyAdded,
    WatchFailed,
)
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.pool.command_state import (
    ConnectionState,
    Word,
    blocking_seconds,
    require_single_reply,
)
from mpim_lab.mq.pool.raw_connection import RawConnection


@dataclass(eq=False)
class Ticket:
    """One caller's slot: the task that has it, since when, and at which server."""

    caller: "asyncio.Task[Any] | None"
    requested_at: float
    acquired_at: float
    server: str = ""

    @property
    def who(self) -> str:
        """The task's name, to be shown if it stays long."""
        return "no task" if self.caller is None else self.caller.get_name()

    @property
    def waited_s(self) -> float:
        """How long its caller waited for it."""
        return self.acquired_at - self.requested_at


class PooledConnection:
    """A connection to one server, lent to one task until it leaves the context.

    It serves one command after another. After the context it is dead, even if the connection behind
    it lives on with somebody else. `server` is its URL without the password, `waited_s` how long
    the borrower waited for it.

    Args:
        raw: The connection behind it.
        call_timeout_s: How long a command may take, unless it blocks.
        ticket: The borrower's slot in the pool.
        loop: The pool's event loop.
    """

    def __init__(
        self,
        raw: RawConnection,
        call_timeout_s: float,
        ticket: Ticket | None = None,
        *,
        loop: LoopAffinity | None = None,
    ) -> None:
        self.raw, self.ticket = raw, ticket
        self._loop = loop or LoopAffinity("this connection")
        self.server = str(raw.address)
        self.waited_s = 0.0 if ticket is None else ticket.waited_s
        self.is_returned = False
        self._call_timeout_s = call_timeout_s
        self._state = ConnectionState()

    @property
    def is_broken(self) -> bool:
        """The line ended, or the reply to a command is still to come: nothing more can be sent."""
        return bool(self.raw.pending_replies) or not self.raw.is_open

    @property
    def dirty_reason(self) -> str:
        """Why nobody else may have it; "" if it is as it was when it was lent."""
        if not self.raw.is_open:
            return "broken in use"
        return "in the middle of a reply" if self.raw.pending_replies else self._state.dirty_reason

    async def call(self, *words: Word, timeout_s: float | None = None) -> Any:
        """Send one command and await its reply.

        Args:
            *words: The command.
            timeout_s: How long to wait. None: the pool's `call_timeout_s`, and on top of that the
                time for which the command says it blocks (BLPOP key 1, XREAD BLOCK 500).

        Returns:
            The reply, in RESP3 and bytes.

        Raises:
            CommandRejected: The server refused it.
            CommandTimeout: No answer in time; the connection is broken, and a blocking read may
                have taken something from the server that nobody gets.
            ConnectionLost: The same.
            NotConnected: The connection is of no use; nothing was sent.
            InvalidMessage: It has no reply of its own (SUBSCRIBE, MONITOR, CLIENT REPLY).
            InvalidParameter: It would block for ever.
        """
        require_single_reply(words)
        limit_s = self._timeout_s(words, timeout_s)
        self._check_usable()
        self._state.observe(words)
        (reply,) = await self.raw.execute([words], limit_s)
        if isinstance(reply, MpimError):
            raise reply
        return reply

    async def transaction(
        self, commands: Sequence[Sequence[Word]], *, timeout_s: float | None = None
    ) -> list[Any]:
        """Send MULTI, the commands and EXEC in one write. `call("WATCH", …)` before it, if need be.

        Args:
            commands: The commands, each a sequence of words.
            timeout_s: How long to wait; None: the pool's `call_timeout_s`.

        Returns:
            The commands' replies.

        Raises:
            WatchFailed: A watched key was changed; nothing was done.
            CommandRejected: Nothing was done.
            PartlyAdded: Some failed as they were run, the others are done; `ids` are the replies,
                `errors` says which.
            MpimError: Otherwise as `call`.
        """
        commands = [tuple(words) for words in commands]
        for words in commands:
            require_single_reply(words)
        limit_s = self._timeout_s(("MULTI",), timeout_s)
        self._check_usable()
        for words in commands:
            self._state.observe(words)
        framed = [("MULTI",), *commands, ("EXEC",)]
        self._state.observe(("EXEC",))
        *queued, outcome = await self.raw.execute(framed, limit_s)
        return _outcome(queued, outcome)

    def _timeout_s(self, words: Sequence[Word], timeout_s: float | None) -> float:
        limit_s = (
            self._call_timeout_s + max(0.0, blocking_seconds(words))
            if timeout_s is None
            else timeout_s
        )
        if not 0 < limit_s < math.inf:
            raise InvalidParameter(
                f"{words[0]!r} may block for {limit_s:g} s: give a timeout_s that is above 0 and "
                "not infinite"
            )
        return limit_s

    def _check_usable(self) -> None:
        """Raises WrongLoop, NotConnected.

        One step with the writing that follows: two tasks cannot mix their replies.
        """
        self._loop.check()
        if self.is_returned:
            raise NotConnected("this connection was given back to the pool; nothing was sent")
        if self.raw.pending_replies:
            raise NotConnected(
                "this connection is in the middle of a reply, and of no use until then; nothing "
                "was sent"
            )


def _outcome(queued: list[Any], outcome: Any) -> list[Any]:
    refused = next((reply for reply in queued if isinstance(reply, MpimError)), None)
    if isinstance(outcome, MpimError):
        raise CommandRejected(
            f"{refused or outcome}; nothing of the transaction was done"
        ) from outcome
    if outcome is None:
        raise WatchFailed(
            "a watched key was changed in the meantime; nothing of the transaction was done"
        )
    return PartlyAdded.unless_all(list(outcome))

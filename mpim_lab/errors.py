"""Every exception of mpim_lab, in one tree.

    MpimError
    ├── InvalidMessage (ValueError)      bad channel, bad payload, too large
    ├── InvalidParameter (ValueError)    a parameter outside its bounds, an unknown fault
    ├── UnreadablePayload                what arrived cannot be read
    │   ├── CorruptPayload               truncated, or not what its header says
    │   ├── OversizedPayload             it would be larger than the limit once it is unpacked
    │   └── UnknownFormat                packed in a way, or with a dictionary, that is not known
    here ├── AlreadySubscribed                the channel has a handler in this queue ├──
    SlowSubscriber                   a handler fell too far behind; its subscription was ended ├──
    HandlerTimeout                   a handler made no progress in time; it was not waited for any
    longer ├── QueueClosed                      the queue or connection was closed by its owner ├──
    WrongLoop                        used in another event loop or process than it was opened in;
    nothing was written ├── WrongLayout                      the server's keys are laid out as this
    version does not know them ├── NotConnected                     no connection in time; nothing
    was written ├── QueueFull                        the limit on waiting commands was not freed in
    time; nothing was written ├── ConnectionLost                   the line broke after the command
    was written ├── CommandTimeout                   written, and no answer in time ├── Unconfirmed
    all attempts are used up, and one of them may have been run ├── CommandRejected
    the server answered with an error │   └── WatchFailed                  a watched key changed
    before EXEC; nothing of the transaction was done ├── PartlyAdded                      some of
    many were not added, or may not have been; it says which ├── LoginRejected
    the server refused user, password or database ├── InProgress                       another
    worker is at this message; nothing was done ├── HandlerCancelled                 a handler
    awaited something that was cancelled by somebody else ├── LeaseLost                        what
    this worker had has passed on to another; nothing of its attempt was kept ├── WorkCancelled
    what the work awaited was cancelled by somebody else; nothing of it was kept ├── StoreFailed
    the database refused; nothing of the transaction was kept ├── StoreUncertain
    the outcome of a commit is unknown ├── PoolTimeout                      no connection of a pool
    became free in time; nothing was sent ├── PositionOutOfRange               a reader is beyond
    the end of what it reads: that was lost, or is another one ├── ReorderOverflow
    more messages than a reorder buffer may hold ├── AccessDenied                     this user may
    not do that │   ├── InvalidToken                 expired, forged, used before, or no token at
    all │   └── NotAMember                   only members write to a group and read it ├──
    NoSuchGroup                      there is no group of that name ├── GroupExists
    there is one already ├── TooFast                          more than a client may ask for;
    nothing was done ├── GatewayClosed                    the connection to the gateway ended before
    the answer came ├── ServerFailed                     a server could not be started, or ended by
    itself ├── FaultUnavailable                 this server does not offer that fault └── LoadFailed
    a load process ended without a result

Each class says by `definite` whether the operation certainly did NOT happen (`True`) or may have
happened (`False`). Only a definite failure may be retried without thinking; for the others
idempotency exists. The word is Maelstrom's
(https://github.com/jepsen-io/maelstrom/blob/main/doc/protocol.md#errors).

By `transient` it says whether the same call may succeed later. Every part that retries asks this
and nothing else.
"""

from collections.abc import Sequence
from typing import Any

# What a server says first when it refuses a command for now: it starts, is busy or full, or a
# failover is going on. UNBLOCKED ends a command that blocks, when that happens while it waits.
TRANSIENT_CODES = frozenset(
    [
        *("LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN"),
        *("READONLY", "NOREPLICAS", "OOM", "MISCONF", "UNBLOCKED"),
    ]
)


class MpimError(Exception):
    """Base of every error of this package."""

    definite = True
    transient = False


class InvalidMessage(MpimError, ValueError):
    """The channel or payload cannot be sent; nothing was written."""


class InvalidParameter(MpimError, ValueError):
    """A parameter is outside its stated bounds."""


class UnreadablePayload(MpimError):
    """What arrived cannot be read; its neighbours are not touched."""


class CorruptPayload(UnreadablePayload):
    """The payload is truncated, or its bytes are not what its header says."""


class OversizedPayload(UnreadablePayload):
    """Unpacked it would be larger than the limit; unpacking was given up before it was."""


class UnknownFormat(UnreadablePayload):
    """The payload was packed in a way, or with a dictionary, that this side does not know."""


class AlreadySubscribed(MpimError):
    """This queue already has a handler on that channel or pattern."""


class SlowSubscriber(MpimError):
    """A handler fell too far behind; its subscription was ended, as its policy says."""


class HandlerTimeout(MpimError):
    """A handler made no progress within the time-out.

    What had arrived for it may still be handled.
    """

    definite = False


class QueueClosed(MpimError):
    """The queue was closed by its owner; nothing was written."""


class WrongLoop(MpimError):
    """Used in another event loop, thread or process than it was opened in; nothing was written.

    Make one for each.
    """


class WrongLayout(MpimError):
    """The keys on the server are laid out as this version does not know them.

    Nothing was read or written.
    """


class NotConnected(MpimError):
    """There was no connection within the time-out; nothing was written."""

    transient = True


class QueueFull(MpimError):
    """The limit on waiting commands or bytes was not freed within the time-out.

    Nothing was written.
    """

    transient = True


class ConnectionLost(MpimError):
    """The line broke after the command was written: the server may have run it."""

    definite = False
    transient = True


class CommandTimeout(MpimError):
    """The command was written and not answered in time: the server may have run it, or may yet."""

    definite = False
    transient = True


class Unconfirmed(MpimError):
    """All attempts are used up and none was answered; one of them may have been run."""

    definite = False
    transient = True


class CommandRejected(MpimError):
    """The server answered the command with an error.

    `code`: its first word, such as "WRONGTYPE" or "READONLY"; it says whether the refusal is
    `transient`.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code or message.partition(" ")[0]
        # it starts, is busy or full, or a failover is going on
        self.transient = self.code in TRANSIENT_CODES


class WatchFailed(CommandRejected):
    """A watched key was changed before EXEC; nothing of the transaction was done.

    Read again and try again.
    """


class PartlyAdded(MpimError):
    """Of many that were added at once some were not, or may not have been.

    `errors[n]`, or `ids[n]` for the n-th of them.

    In a batch to a channel `ids[n]` is the number of subscribers.
    """

    def __init__(self, ids: Sequence[str | int | None], errors: list[MpimError | None]) -> None:
        failed = [error for error in errors if error is not None]
        super().__init__(f"{len(failed):,} of {len(errors):,} were not added: {failed[0]}")
        self.ids, self.errors = ids, errors
        self.definite = all(error.definite for error in failed)
        self.transient = all(error.transient for error in failed)

    @classmethod
    def unless_all(cls, outcomes: list[Any]) -> list[Any]:
        """Return the outcomes if none of them is an error. Raise PartlyAdded."""
        errors = [outcome if isinstance(outcome, MpimError) else None for outcome in outcomes]
        if not any(errors):
            return outcomes
        ids = [None if error else outcome for outcome, error in zip(outcomes, errors, strict=True)]
        raise cls(ids, errors) from next(filter(None, errors))


class LoginRejected(NotConnected):
    """The server refused the user, the password or the database number."""

    transient = False


class InProgress(MpimError):
    """Another worker is at this message, and its lease lasts for `retry_in_s` seconds.

    Nothing was done.
    """

    transient = True

    def __init__(self, message: str, *, retry_in_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_in_s = retry_in_s


class HandlerCancelled(MpimError):
    """A handler met a CancelledError that was not meant for whoever called it.

    What it awaited was cancelled elsewhere.
    """

    definite = False


class LeaseLost(MpimError):
    """What this worker had in hand has passed on to another one.

    Nothing of its attempt was kept.
    """


class WorkCancelled(MpimError):
    """The work awaited something that somebody else cancelled.

    The work failed, its caller was not cancelled.
    """

    transient = True


class StoreFailed(MpimError):
    """The database refused, or could not be reached in time.

    Nothing of the transaction was kept.
    """

    transient = True


class StoreUncertain(MpimError):
    """The commit was begun and its outcome is unknown.

    All of the transaction was kept, or nothing.
    """

    definite = False
    transient = True


class PoolTimeout(MpimError):
    """No connection of the pool became free in time; nothing was sent."""

    transient = True


class ReorderOverflow(MpimError):
    """A gap is open and more messages came than the buffer may hold; this one was not taken in."""


class PositionOutOfRange(MpimError):
    """A reader has come further than what it reads goes.

    The server has lost that, or it is another one.
    """


class ServerFailed(MpimError):
    """A server process could not be started, or ended by itself."""


class FaultUnavailable(MpimError):
    """The fault cannot be caused on this server; the message says why."""


class LoadFailed(MpimError):
    """A load process ended without a result; the message carries its last lines."""

    definite = False


class AccessDenied(MpimError):
    """This user may not do that; nothing was done."""


class InvalidToken(AccessDenied):
    """The token is expired, forged, used before, or none at all."""


class NotAMember(AccessDenied):
    """Only a group's members may write to it and read it."""


class NoSuchGroup(MpimError):
    """There is no group of that name."""


class GroupExists(MpimError):
    """There is a group of that name already."""


class TooFast(MpimError):
    """The client asks for more than its limit allows; nothing was done. Wait and ask again."""

    transient = True


class GatewayClosed(MpimError):
    """The connection to the gateway ended before the answer came: ask again, with the same id."""

    definite = False
    transient = True

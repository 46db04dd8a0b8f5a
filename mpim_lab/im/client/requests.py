"""RequestTracker: a request is sent until it is answered, always with the same id.

That may take several connections.
"""

import asyncio
import contextlib
import random

from mpim_lab.errors import GatewayClosed, MpimError, TooFast, Unconfirmed
from mpim_lab.events import now
from mpim_lab.im.client.connection import GatewayConnection, exception_from_frame
from mpim_lab.im.protocol.frames import ErrorFrame, Group, Members, Send, Sent
from mpim_lab.mq.connection.retry import Backoff

_BACKOFF = Backoff(0.05, 1.0)
# a gateway answers one client's requests in turn, and above its rate not at all
_MAX_IN_FLIGHT = 32
_RATE_LIMIT_PAUSE_S = 1.0
_AT_ONCE = contextlib.nullcontext()


class RequestTracker:
    """The outstanding requests of one client.

    A request and its response have the same `correlation_id`.

    At most 32 are in flight, the others wait for a permit. After TooFast, a second of silence, then
    one at a time.

    | a request ends by ...                            | its permit, and its entry in `_pending` |
    |--------------------------------------------------|-----------------------------------------|
    | its response, or an error that is not transient  | released                                |
    | a transient error, or no response in time        | released until it is sent again         |
    | its caller's cancellation, its time-out          | released                                |
    | the client's end                                 | released; the caller gets GatewayClosed |
    """

    def __init__(
        self, connection: GatewayConnection, response_timeout_s: float, timeout_s: float
    ) -> None:
        self._connection = connection
        self._response_timeout_s, self._timeout_s = response_timeout_s, timeout_s
        self._pending: dict[str, tuple[Send | Group, asyncio.Future[Sent | Members]]] = {}
        self._permits, self._one_by_one = asyncio.Semaphore(_MAX_IN_FLIGHT), asyncio.Lock()
        self._paused_until = 0.0
        self._is_closed = False

    @property
    def pending(self) -> list[Send | Group]:
        """The requests to send again over a new connection, the oldest first."""
        return [frame for frame, _ in self._pending.values()]

    async def request(self, key: str, frame: Send | Group) -> Sent | Members:
        """Send a request until it is answered; `key`: its `correlation_id`.

        Raises what the gateway answered, and Unconfirmed if nothing came in time.

        TooFast: it was refused as often as it was sent.
        """
        begun, failed = now(), list[MpimError]()
        try:
            async with asyncio.timeout(self._timeout_s), self._permits:
                while not self._is_closed:
                    try:
                        return await self._attempt(key, frame, failed)
                    except TimeoutError:
                        failed[-1] = GatewayClosed(f"no answer; {self._connection.last_error}")
                        self._connection.check_liveness(2 * self._response_timeout_s)
                    except TooFast as error:
                        failed.append(error)
                        self._paused_until = now() + _RATE_LIMIT_PAUSE_S
                    except MpimError as error:
                        failed.append(error)
                        if not error.transient:
                            raise
                        await asyncio.sleep(_BACKOFF.delay_s(len(failed), random.random()))
        except TimeoutError:
            pass
        if self._is_closed:
            raise _closed_error()
        if failed and all(error.definite for error in failed):
            raise failed[-1]
        last = failed[-1] if failed else None
        detail = f"{type(last).__name__}: {last}" if last else self._connection.last_error
        raise Unconfirmed(f"no gateway answered within {now() - begun:.1f} s: {detail}")

    async def _attempt(
        self, key: str, frame: Send | Group, failed: list[MpimError]
    ) -> Sent | Members:
        while key in self._pending:  # one with this id is in flight: one after the other
            await asyncio.wait([self._pending[key][1]])
            await asyncio.sleep(0)
        is_slow = now() <= self._paused_until + _RATE_LIMIT_PAUSE_S
        async with self._one_by_one if is_slow else _AT_ONCE:
            if is_slow:
                await asyncio.sleep(self._paused_until - now())
            if self._is_closed:  # while this was waiting for a permit
                raise _closed_error()
            answer: asyncio.Future[Sent | Members] = asyncio.get_running_loop().create_future()
            self._pending[key] = frame, answer
            # as long as there is no answer: whatever ends the wait, it is not definite
            failed.append(GatewayClosed("no answer"))
            try:
                async with asyncio.timeout(self._response_timeout_s):
                    await self._connection.send(frame)
                    return await answer
            except MpimError:
                failed.pop()
                raise
            finally:
                del self._pending[key]
                answer.cancel()  # whoever waits for its end goes on

    def on_response(self, key: str, response: Sent | Members) -> None:
        """Resolve the request that this answers."""
        waiting = self._pending.get(key)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(response)

    def on_error(self, frame: ErrorFrame) -> None:
        """Fail the request that the error names by its id."""
        waiting = self._pending.get(frame.id)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_exception(exception_from_frame(frame))

    def close(self) -> None:
        """Fail all outstanding requests with GatewayClosed."""
        self._is_closed = True
        for _, answer in self._pending.values():
            if not answer.done():
                answer.set_exception(_closed_error())


def closed_before_sending(why: str) -> GatewayClosed:
    """This client was closed by its owner, or is used once more.

    Nothing was sent, and nothing will be.
    """
    error = GatewayClosed(why)
    error.definite, error.transient = True, False
    return error


def _closed_error() -> GatewayClosed:
    """It was closed while an answer was awaited."""
    error = GatewayClosed("the client was closed before the answer came")
    error.transient = False
    return error

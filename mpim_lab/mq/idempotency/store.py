"""IdempotencyStore: at least once and harmless the second time = exactly once in effect.

A message's sender makes its id once and keeps it in every repeat; whoever handles it asks here
first.

| the id's record says   | then the worker ...                                                    |
|------------------------|------------------------------------------------------------------------|
| nothing, or lease over | claims it: a lease, and a fencing token higher than all before         |
| claimed by another     | does nothing: InProgress, to be tried again when the lease may be over |
| done                   | does nothing and gets the first result                                 |

`complete` checks the token and then, in one step on the server, runs the effects, keeps the result
and marks the id done. A worker that slept through its lease has a token that is not the last: it
gets LeaseLost, and nothing of its attempt is kept.

What this covers: effects on the same server as the records, handed over with `effects.add(…)`. What
it cannot cover: anything that happens elsewhere while the work goes on (an e-mail, a payment at a
bank). That happens at least once, unless the other side takes an idempotency key or checks the
token itself. Effects in a SQL database: `sql_inbox.py`.

| a claim is released, unless it has passed on,  | how                                           |
| when                                           |                                               |
|------------------------------------------------|-----------------------------------------------|
| `complete` was answered                        | it is done: there is nothing to release       |
| the work raises, or gives what is no result    | before the error is raised                    |
| the work meets a CancelledError of somebody    | the same: it has failed (WorkCancelled)       |
| else's                                         |                                               |
| `complete` fails                               | the same; no harm if it was run, and then the |
|                                                | id is done                                    |
| the caller is cancelled, in the work or        | at once, and without waiting for the server's |
| `complete`                                     | answer                                        |
| the caller is cancelled while it claims        | as soon as the claim's answer comes           |
| the server cannot be reached, the process dies | by itself, after the lease                    |

A record lives for `ttl_s`; a repeat that comes later is handled again. So that is longer than any
sender repeats.

Source: Kleppmann, "How to do distributed locking", 2016 (fencing tokens); Stripe's API
documentation (idempotency keys: the first result is returned to every repeat).
"""

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from mpim_lab.errors import (
    CommandRejected,
    InProgress,
    InvalidMessage,
    InvalidParameter,
    LeaseLost,
    MpimError,
    WorkCancelled,
)
from mpim_lab.events import now
from mpim_lab.keys import Name, joinable, name_bytes
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.coalescer import Coalescer
from mpim_lab.mq.connection.encoding import encode_payload
from mpim_lab.mq.connection.handler import (
    TaskCancellation,
    check_handler,
    handler_scope,
    is_in_handler,
)
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.connection.resp import encode_command, ignore_result
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.effects import AtomicEffects, Command, encode_effects
from mpim_lab.mq.pubsub.queue import MessageQueue

MAX_AT_ONCE = 200
_POLL_BACKOFF = Backoff(initial_s=0.005, max_s=0.1)
Work = Callable[[AtomicEffects], bytes | None] | Callable[[AtomicEffects], Awaitable[bytes | None]]
CLAIM = LuaScript("mq/idempotency/lua/claim.lua")
COMPLETE = LuaScript(
    "mq/connection/lua/call.lua",
    "mq/idempotency/lua/effects.lua",
    "mq/idempotency/lua/complete.lua",
)
RELEASE = LuaScript("mq/idempotency/lua/release.lua")


class Claim(NamedTuple):
    """One worker's right to handle one id, until its lease ends.

    `token` is higher than that of every claim before.
    """

    id: Name
    token: int


class _Completion(NamedTuple):
    record_key: bytes
    claim: Claim
    result: bytes
    effects: Sequence[Command]


class IdempotencyStore:
    """The idempotency records of one kind of work: `IdempotencyStore(mq, "payments")`.

    Claims of one event-loop iteration are sent as one command. After an error with `definite` False
    simply run it again, with the same id.

    Args:
        queue: The queue on whose server they are kept.
        scope: The kind of work. Scopes know nothing of each other's ids.
        lease_ms: Longer than the work takes; a crashed worker's claim passes on after it.
        ttl_s: How long a record lives, in seconds: longer than any sender repeats.

    Raises:
        InvalidParameter: A number is out of bounds, or a record would end before its lease.
        MpimError: What `ReconnectingConnection` raises, in all methods.
    """

    def __init__(
        self, queue: MessageQueue, scope: Name, *, lease_ms: int = 30_000, ttl_s: int = 86_400
    ) -> None:
        check_whole(lease_ms=lease_ms, ttl_s=ttl_s)
        if ttl_s * 1_000 < lease_ms:
            raise InvalidParameter(
                f"lease_ms={lease_ms}, ttl_s={ttl_s}: a record outlives its lease"
            )
        name_bytes(scope, "scope", error=InvalidParameter)
        self.scope, self._queue = scope, queue
        self._tokens = queue.keys.fencing_tokens(scope)
        self._key_prefix = queue.keys.idempotency_record_prefix(scope)
        self._link = queue.context(scope).connection
        self._lease_ms, self._ttl_ms = lease_ms, str(ttl_s * 1_000)
        self._releases: set[asyncio.Future[Any]] = set()
        self._claims: Coalescer[tuple[Name, bytes], Claim | bytes] = Coalescer(
            self._send_claims, max_items=MAX_AT_ONCE, on_abandoned=self._release_nowait
        )
        self._completions: Coalescer[_Completion, bytes] = Coalescer(
            self._send_completions, max_items=MAX_AT_ONCE
        )

    async def run(self, id: Name, work: Work, *, wait_timeout_s: float | None = None) -> bytes:
        """Do the work if nobody has; otherwise return the first result.

        While another worker is at it, this waits for the first result or the end of the lease; not
        at all, if the work asks for its own id.

        Args:
            id: The message's id.
            work: `work(effects)`, plain or async, says with `effects.add(…)` what is to change on
                the server, and may return a result. What it raises is raised here, and the id may
                be tried again at once.
            wait_timeout_s: How long to wait for another worker; None: twice the lease.

        Returns:
            The result: this one's, or the first one's.

        Raises:
            InProgress: Another worker is still at it.
            LeaseLost: The claim has passed on; nothing of this attempt was kept.
            WorkCancelled: The work, not the caller, was cancelled: it may be tried again.
        """
        wait_timeout_s = 2e-3 * self._lease_ms if wait_timeout_s is None else wait_timeout_s
        record_key = self._record_key(id)
        if is_in_handler(
            record_key
        ):  # the work asks for its own result: that cannot come while it waits
            wait_timeout_s = 0.0
        claimed = await self._claim_or_wait(id, record_key, now() + wait_timeout_s)
        if isinstance(claimed, bytes):
            return claimed
        effects, cancellations = AtomicEffects(self._queue.keys), TaskCancellation()
        try:
            with handler_scope(record_key):
                result: Any = work(effects)
                if result is not None and inspect.isawaitable(result):
                    result = await result
                elif result is not None and type(result) is not bytes and type(result) is not str:
                    check_handler(work)
            return await self._complete(
                record_key, claimed, b"" if result is None else result, effects.commands
            )
        except LeaseLost:
            raise
        except asyncio.CancelledError as error:
            self._release_nowait(claimed)
            if cancellations.was_requested:
                raise
            raise WorkCancelled(
                f"the work on {id!r} awaited what somebody else cancelled"
            ) from error
        except Exception as error:
            if getattr(error, "definite", True):
                with contextlib.suppress(MpimError):  # then it passes on after the lease
                    await self.release(claimed)
            else:
                self._release_nowait(
                    claimed
                )  # it may be done, or nobody answers: no reason to wait
            raise

    async def _claim_or_wait(self, id: Name, record_key: bytes, until: float) -> Claim | bytes:
        for attempt in itertools.count(1):
            try:
                return await self._claims.submit((id, record_key))
            except InProgress as busy:
                pause_s = min(busy.retry_in_s, _POLL_BACKOFF.delay_s(attempt, jitter=1.0))
                if not now() + pause_s <= until:
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    async def claim(self, id: Name) -> Claim | bytes:
        """Claim an id.

        Args:
            id: The message's id.

        Returns:
            The claim; or the first result if the work is done.

        Raises:
            InProgress: Another worker's lease lasts.
        """
        return await self._claims.submit((id, self._record_key(id)))

    async def complete(
        self, claim: Claim, result: bytes = b"", effects: AtomicEffects | None = None
    ) -> bytes:
        """Run the effects and mark the id done, atomically.

        Args:
            claim: What `claim` returned.
            result: Bytes, or text, for every repeat.
            effects: What is to change on the server.

        Returns:
            The first result: another worker's if that was faster.

        Raises:
            LeaseLost: The claim has passed on: nothing was changed.
            CommandRejected: The server refused an effect.
            InvalidMessage: The result is neither bytes nor text.
        """
        return await self._complete(
            self._record_key(claim.id), claim, result, effects.commands if effects else ()
        )

    def _complete(
        self, record_key: bytes, claim: Claim, result: bytes, commands: Sequence[Command]
    ) -> "asyncio.Future[bytes]":
        result = encode_payload(
            result, self._queue.max_payload_bytes
        )  # here: it is wrong for no other call of this batch
        return self._completions.submit(_Completion(record_key, claim, result, commands))

    async def release(self, claim: Claim) -> bool:
        """Release a claim, so that the next attempt need not wait for the lease.

        Args:
            claim: What `claim` returned.

        Returns:
            False if it had passed on.
        """
        return bool(await RELEASE.run(self._link, [self._record_key(claim.id)], str(claim.token)))

    def _release_nowait(self, claimed: Claim | bytes | Exception) -> None:
        """Release a claim without waiting.

        Nobody who is cancelled need wait for the server, nor can this be cancelled.

        In line behind what was written before, a `complete` included: what was finished stays done.
        """
        if not isinstance(claimed, Claim):
            return
        connection = self._link.connection
        if connection.is_blocked:
            release: asyncio.Future[Any] = asyncio.ensure_future(self.release(claimed))
        else:
            words = (RELEASE.source, "1", self._record_key(claimed.id), str(claimed.token))
            release = connection.send(encode_command("EVAL", *words))
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)
        release.add_done_callback(ignore_result)

    def _record_key(self, id: Name) -> bytes:
        if not id:
            raise InvalidMessage("a message without an id cannot be recognised when it comes again")
        return self._key_prefix + joinable(id)

    async def _send_claims(
        self, asked: Sequence[tuple[Name, bytes]]
    ) -> Sequence[Claim | bytes | Exception]:
        keys = [self._tokens, *(record_key for _, record_key in asked)]
        answers = await CLAIM.run(self._link, keys, str(self._lease_ms), self._ttl_ms)
        return [
            _parse_claim(name, state, value)
            for (name, _), (state, value) in zip(asked, answers, strict=True)
        ]

    async def _send_completions(
        self, completions: Sequence[_Completion]
    ) -> Sequence[bytes | Exception]:
        keys = [completion.record_key for completion in completions]
        words = [b"%d" % len(completions), self._ttl_ms.encode()]
        for completion in completions:
            words += (b"%d" % completion.claim.token, completion.result)
            encode_effects(completion.effects, keys, words)
        answers = await COMPLETE.run(self._link, keys, *words)
        return [
            _parse_completion(completion, state, value)
            for completion, (state, value) in zip(completions, answers, strict=True)
        ]


def _parse_claim(id: Name, state: bytes, value: Any) -> Claim | bytes | Exception:
    if state == b"busy":
        return InProgress(
            f"another worker is at {id!r}; its lease ends in {value} ms", retry_in_s=value / 1e3
        )
    return Claim(id, value) if state == b"mine" else value or b""


def _parse_completion(completion: _Completion, state: bytes, value: bytes) -> bytes | Exception:
    if state == b"lost":
        return LeaseLost(
            f"{completion.claim.id!r} has passed on to another worker; nothing of this attempt "
            "was kept"
        )
    if state == b"failed":
        why = value.decode("utf-8", "replace")
        return CommandRejected(
            f"an effect of {completion.claim.id!r} was refused: {why}", code=why.partition(" ")[0]
        )
    return value

"""IdempotencyStore on a real server.

One effect and one first result, whoever repeats, dies or sleeps.
"""

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    InProgress,
    InvalidMessage,
    InvalidParameter,
    LeaseLost,
    NotConnected,
    WorkCancelled,
)
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.idempotency.store import MAX_AT_ONCE, Claim, IdempotencyStore
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

LEASE_MS = 60


@contextlib.asynccontextmanager
async def store_of(server, *, scope="payments", url=None, **options):
    """The records of one kind of work, and the queue they are on."""
    queue_options = {
        name: options.pop(name)
        for name in ("prefix", "config", "max_payload_bytes")
        if name in options
    }
    async with MessageQueue(url or server.url, **queue_options) as mq:
        yield IdempotencyStore(mq, scope, **options), mq


def paying(result=b"paid", amount=450, key="account:bob"):
    """A work whose effect is money in an account."""

    def work(effects):
        effects.add("INCRBY", key, amount)
        return result

    return work


async def ask(mq, *words):
    """What the server says."""
    return await mq.context("ask").connection.call(*words)


async def account(mq, key="account:bob"):
    """How much is in an account."""
    return int(await ask(mq, "GET", f"{mq.prefix}{key}") or 0)


async def lease_over(once, id):
    """Claim as soon as whoever has it may be taken for dead."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await once.claim(id)
            except InProgress as busy:
                await asyncio.sleep(busy.retry_in_s)


# The first result


@pytest.mark.parametrize("kind", ["plain", "async", "no result", "text", "bytes"])
async def test_every_repeat_gets_the_first_result_and_has_no_effect(server, kind):
    """The work is not even called again, whoever asks, also by another queue."""
    calls = []
    result = {"no result": None, "text": "付", "bytes": b"\x00\xff"}.get(kind, b"first")
    expected = {"no result": b"", "text": "付".encode()}.get(kind, result)

    def work(effects):
        calls.append(1)
        effects.add("INCRBY", "account:bob", 450)
        return result

    async def later(effects):
        await asyncio.sleep(0)
        return work(effects)

    async with store_of(server) as (once, mq), store_of(server) as (other, _):
        assert await once.run("m1", later if kind == "async" else work) == expected
        for again in (once, other, once):
            assert await again.run("m1", paying(b"second")) == expected
            assert await again.claim("m1") == expected
        assert (await account(mq), len(calls)) == (450, 1)


async def test_ids_and_scopes_are_apart(server):
    """Another id is another message; the same id in another scope, or under another prefix, too."""
    async with (
        store_of(server) as (once, mq),
        store_of(server, scope="mails") as (mails, _),
        store_of(server, prefix="lab-7:") as (lab, lab_mq),
    ):
        for marked, name in (
            (once, "m1"),
            (once, "m2"),
            (once, "晚\r\n 1"),
            (mails, "m1"),
            (lab, "m1"),
        ):
            assert await marked.run(name, paying(name.encode())) == name.encode()
        assert (await account(mq), await account(lab_mq)) == (4 * 450, 450)


async def test_an_id_that_cannot_be_one_is_refused(server):
    """Before anything is done, and without harm to who asks in the same loop turn."""
    async with store_of(server) as (once, mq):
        for wrong in ("", "\udcff"):
            good, bad = await asyncio.gather(
                once.run(f"m{wrong!r}", paying()), once.run(wrong, paying()), return_exceptions=True
            )
            assert good == b"paid" and isinstance(bad, InvalidMessage)
        assert await account(mq) == 900


@pytest.mark.parametrize(
    "options", [{"lease_ms": 0}, {"ttl_s": 0}, {"lease_ms": 2_001, "ttl_s": 2}]
)
async def test_a_lease_and_a_lifetime_have_bounds(server, options):
    """A record outlives its lease."""
    async with MessageQueue(server.url) as mq:
        with pytest.raises(
            InvalidParameter, match=r"a whole number from 1|a record outlives its lease"
        ):
            IdempotencyStore(mq, "payments", **options)


# Two at once


@pytest.mark.parametrize("together", [True, False])
async def test_of_two_at_once_one_works_and_the_other_gets_its_result(server, together):
    """Through one queue in one loop turn, or through two."""
    begun, go = [], asyncio.Event()

    async def work(effects):
        begun.append(1)
        effects.add("INCRBY", "account:bob", 450)
        await go.wait()
        return b"%d" % len(begun)

    async with store_of(server) as (once, mq), store_of(server) as (other, _):
        runs = [
            asyncio.create_task(who.run("m1", work)) for who in (once, once if together else other)
        ]
        await wait_until(lambda: begun)
        await asyncio.sleep(0.02)
        go.set()
        assert await asyncio.gather(*runs) == [b"1", b"1"]
        assert await account(mq) == 450


async def test_who_will_not_wait_so_long_is_told_when_to_come_again(server):
    """InProgress, definite, with what is left of the lease."""
    async with store_of(server, lease_ms=30_000) as (once, mq):
        assert isinstance(await once.claim("m1"), Claim)
        for wait_timeout_s in (0.0, 0.03):
            begun = asyncio.get_running_loop().time()
            with pytest.raises(InProgress, match="another worker is at 'm1'") as busy:
                await once.run("m1", paying(), wait_timeout_s=wait_timeout_s)
            assert asyncio.get_running_loop().time() - begun < 5.0
            assert 20.0 < busy.value.retry_in_s <= 30.0 and busy.value.definite
        assert await account(mq) == 0


async def test_many_at_once_make_one_effect(server):
    """Fifty callers through five queues."""
    async with contextlib.AsyncExitStack() as stack:
        all_stores = [await stack.enter_async_context(store_of(server)) for _ in range(5)]
        runs = [
            once.run("m1", paying(b"%d" % number)) for number in range(10) for once, _ in all_stores
        ]
        assert len({*await asyncio.gather(*runs)}) == 1
        assert await account(all_stores[0][1]) == 450


# Crashes, zombies, errors


async def test_a_crashed_workers_claim_passes_on_after_its_lease(server):
    """Whoever waits takes it up; not before."""
    async with store_of(server, lease_ms=LEASE_MS) as (once, mq):
        begun = asyncio.get_running_loop().time()
        dead = await once.claim("m1")
        assert await once.run("m1", paying(), wait_timeout_s=10) == b"paid"
        assert asyncio.get_running_loop().time() - begun >= LEASE_MS / 1e3 - 0.002
        assert await account(mq) == 450
        assert not await once.release(dead)


async def test_a_worker_that_slept_through_its_lease_has_no_effect(server):
    """LeaseLost, also when the new owner has not finished.

    And it cannot release what is another's.
    """
    async with store_of(server, lease_ms=LEASE_MS) as (once, mq):

        async def sleeper(effects):
            effects.add("INCRBY", "account:bob", 1)
            claimed.append(await lease_over(once, "m1"))

        claimed = []
        with pytest.raises(LeaseLost, match="'m1' has passed on"):
            await once.run("m1", sleeper)
        (claim,) = claimed
        assert not await once.release(Claim("m1", claim.token - 1))
        assert await once.complete(claim, b"second") == b"second"
        assert await account(mq) == 0


async def test_the_zombie_that_comes_after_the_new_owner_has_finished_gets_its_result(server):
    """The first result is for every repeat; the zombie's effects are not run."""
    async with store_of(server, lease_ms=LEASE_MS) as (once, mq):
        zombie = await once.claim("m1")
        assert await once.complete(await lease_over(once, "m1"), b"new") == b"new"
        effects_of_zombie = []

        def work(effects):
            effects_of_zombie.append(effects)
            paying()(effects)

        await once.run("m2", work)
        assert await once.complete(zombie, b"old", effects_of_zombie[0]) == b"new"
        assert await account(mq) == 450


async def test_a_claim_that_nobody_else_took_still_stands_after_its_lease(server):
    """Late is no harm as long as it is the last one."""
    async with store_of(server, lease_ms=20) as (once, _):
        late = await once.claim("m1")
        await asyncio.sleep(0.03)
        assert await once.complete(late, b"late") == b"late"
        assert await once.claim("m1") == b"late"


@pytest.mark.parametrize("error", [ValueError("no"), NotConnected("down")])
async def test_a_work_that_raises_lets_go_at_once(server, error):
    """Its error is raised, nothing was done, and the next attempt need not wait for the lease."""

    def work(effects):
        paying()(effects)
        raise error

    async with store_of(server, lease_ms=30_000) as (once, mq):
        with pytest.raises(type(error)) as raised:
            await once.run("m1", work)
        assert raised.value is error
        assert await account(mq) == 0
        assert await once.run("m1", paying(), wait_timeout_s=0) == b"paid"


async def test_a_work_that_meets_somebody_elses_cancellation_has_failed(server):
    """By name, so that whoever called does not look cancelled; the claim is given back."""
    elsewhere = asyncio.get_running_loop().create_future()
    elsewhere.cancel()

    async def work(effects):
        paying()(effects)
        await elsewhere

    async with store_of(server, lease_ms=30_000) as (once, mq):
        with pytest.raises(WorkCancelled):
            await once.run("m1", work)
        assert await account(mq) == 0
        assert await once.run("m1", paying(), wait_timeout_s=1) == b"paid"


@pytest.mark.parametrize("turn", range(0, 24, 2))
async def test_a_caller_that_is_cancelled_at_any_moment_gives_its_claim_back(one_server, turn):
    """While it claims, works, or finishes.

    The next one need not wait for the lease, and the effect happens once.
    """

    async def work(effects):
        paying()(effects)
        await asyncio.sleep(0.001)
        return b"paid"

    async with store_of(one_server, lease_ms=30_000) as (once, mq), asyncio.timeout(20):
        victim = asyncio.create_task(once.run("m1", work))
        for _ in range(turn):
            await asyncio.sleep(0)
        victim.cancel()
        await asyncio.wait([victim])
        assert await once.run("m1", work) == b"paid"
        assert await account(mq) == 450


async def test_a_claim_is_given_back_although_the_queue_is_closed_at_once(server):
    """As when a time-out ends a whole block."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), store_of(server, lease_ms=30_000) as (once, _):
            await once.run("m1", lambda effects: asyncio.sleep(60))
    async with store_of(server, lease_ms=30_000) as (once, _):
        assert await once.run("m1", paying(), wait_timeout_s=1) == b"paid"


async def test_a_work_that_is_a_generator_is_refused_and_its_claim_given_back(server):
    """It would run nothing of it, and be marked as done."""

    def work(effects):
        yield b"x"

    async def asynchronous(effects):
        yield b"x"

    async with store_of(server, lease_ms=30_000) as (once, _):
        for each in (work, asynchronous):
            with pytest.raises(InvalidParameter):
                await once.run("m1", each)
        assert await once.run("m1", paying(), wait_timeout_s=1) == b"paid"


async def test_an_effect_that_a_full_server_refuses_keeps_its_code(server):
    """Whoever repeats sees that it may succeed later."""
    async with store_of(server, lease_ms=30_000) as (once, mq):
        claim = await once.claim("m1")
        await ask(mq, "CONFIG", "SET", "maxmemory", "1")
        effects = AtomicEffects()
        effects.add("SET", "account:bob", "450")
        with pytest.raises(CommandRejected) as error:
            await once.complete(claim, b"", effects)
        assert error.value.code == "OOM" and error.value.transient
        await ask(mq, "CONFIG", "SET", "maxmemory", "0")
        assert await once.complete(claim, b"paid", effects) == b"paid"


async def test_a_wait_that_is_no_number_ends_at_once(server):
    """It would never be over."""
    async with store_of(server, lease_ms=30_000) as (once, _), asyncio.timeout(10):
        await once.claim("m1")
        with pytest.raises(InProgress):
            await once.run("m1", paying(), wait_timeout_s=float("nan"))


async def test_a_works_error_is_raised_even_if_the_line_is_down(server):
    """Letting go is a courtesy: without it the lease ends by itself."""
    limits = ConnectionConfig(timeout_s=0.2, connect_timeout_s=0.2)

    def work(effects):
        server.kill()
        raise ValueError("mine")

    async with store_of(server, config=limits) as (once, _):
        with pytest.raises(ValueError, match="mine"):
            await once.run("m1", work)


async def test_a_result_that_is_neither_bytes_nor_text_is_refused_alone(server):
    """Before it is sent.

    Those of the same loop turn are unharmed, and the id may be tried again.
    """
    async with store_of(server) as (once, mq):
        runs = [
            once.run(f"m{number}", paying({} if number == 1 else b"fine", amount=1))
            for number in range(3)
        ]
        first, wrong, last = await asyncio.gather(*runs, return_exceptions=True)
        assert (first, last) == (b"fine", b"fine") and isinstance(wrong, InvalidMessage)
        assert await account(mq) == 2
        assert await once.run("m1", paying(amount=1), wait_timeout_s=0) == b"paid"


async def test_a_refused_effect_leaves_no_mark_and_harms_no_neighbour(server):
    """Three finish in one loop turn; the server refuses what the second one wants."""
    async with store_of(server, lease_ms=30_000) as (once, mq):
        await ask(mq, "SET", "account:text", "not a number")
        await ask(mq, "RPUSH", "list", "x")
        keys = ["account:bob", "list", "account:bob", "account:text", "account:bob"]
        together = asyncio.Barrier(len(keys))

        def at_once(key):
            async def work(effects):
                paying(key=key, amount=1)(effects)
                await together.wait()

            return work

        runs = [once.run(f"m{number}", at_once(key)) for number, key in enumerate(keys)]
        results = await asyncio.gather(*runs, return_exceptions=True)
        assert [results[0], results[2], results[4]] == [b""] * 3
        assert all(isinstance(results[index], CommandRejected) for index in (1, 3))
        assert "WRONGTYPE" in str(results[1]) and "not an integer" in str(results[3])
        assert await account(mq) == 3
        assert await ask(mq, "EXISTS", "once:{payments}:id:m1", "once:{payments}:id:m3") == 0
        assert await once.run("m1", paying(), wait_timeout_s=0) == b"paid"


async def test_effects_happen_in_order_and_none_is_needed(server):
    """Several commands on several keys; a result alone is a result."""

    def work(effects):
        for word in "abc":
            effects.add("RPUSH", "list", word)
        effects.add("SET", "last", "c", "EX", 100)

    async with store_of(server) as (once, mq):
        await once.run("m1", work)
        assert await ask(mq, "LRANGE", "list", "0", "-1") == [b"a", b"b", b"c"]
        assert await ask(mq, "GET", "last") == b"c"
        assert await once.run("m2", lambda effects: b"alone") == b"alone"


async def test_a_completion_without_a_claim_is_lost(server):
    """A token that was never given, a record that is gone."""
    async with store_of(server, lease_ms=30_000) as (once, _):
        with pytest.raises(LeaseLost):
            await once.complete(Claim("m1", 1))
        claim = await once.claim("m1")
        with pytest.raises(LeaseLost):
            await once.complete(Claim("m1", claim.token + 1))
        assert await once.release(claim)
        with pytest.raises(LeaseLost):
            await once.complete(claim)
        assert isinstance(await once.claim("m1"), Claim)


# Lifetimes and tokens


async def test_marks_have_a_lifetime_and_the_counter_of_tokens_has_none(server):
    """A claimed record and a done one live for `ttl_s`; afterwards a repeat is handled again."""
    async with store_of(server, ttl_s=100) as (once, mq):
        await once.run("m1", paying())
        await once.claim("m2")
        for name in ("m1", "m2"):
            assert 95_000 < await ask(mq, "PTTL", f"once:{{payments}}:id:{name}") <= 100_000
        assert await ask(mq, "PTTL", "once:{payments}:tokens") == -1
        assert sorted(await ask(mq, "KEYS", "once:*:id:*")) == [
            b"once:{payments}:id:m1",
            b"once:{payments}:id:m2",
        ]


async def test_tokens_always_ascend(server):
    """For one id after its record is gone, too: an old token must not fit a new claim."""
    async with store_of(server, lease_ms=20, ttl_s=1) as (once, mq):
        tokens = [(await once.claim("m1")).token]
        for _ in range(3):
            await ask(mq, "DEL", "once:{payments}:id:m1")  # as its lifetime does
            tokens.append((await once.claim("m1")).token)
        tokens.append((await once.claim("m2")).token)
        tokens.append((await lease_over(once, "m1")).token)
        with pytest.raises(LeaseLost):
            await once.complete(Claim("m1", tokens[3]))
        assert tokens == sorted({*tokens})


async def test_a_mark_that_has_expired_is_forgotten(server):
    """After `ttl_s`, really: a repeat that comes later is handled again, with a higher token."""
    async with store_of(server, lease_ms=20, ttl_s=1) as (once, mq):
        first = await once.claim("m1")
        await once.complete(first, b"first")
        async with asyncio.timeout(10):
            while await ask(mq, "EXISTS", "once:{payments}:id:m1"):
                await asyncio.sleep(0.02)
        again = await once.claim("m1")
        assert again.token > first.token


# Cost


async def calls_of(mq, *names):
    """How often the server ran commands of these names."""
    stats = (await ask(mq, "INFO", "commandstats")).decode()
    found = dict(line.split(":", 1) for line in stats.splitlines() if ":" in line)
    lines = [found.get(f"cmdstat_{name}", "calls=0,") for name in names]
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in lines)


async def test_what_is_asked_in_one_loop_turn_leaves_as_few_commands(server):
    """A hundred claims: one command.

    A hundred completions: one. A thousand: as many as the bound of one command says.
    """
    async with store_of(server) as (once, mq):
        await once.run("warm", paying(amount=0))
        for count in (100, 1_000):
            before = await calls_of(mq, "evalsha", "eval")
            claims = await asyncio.gather(
                *(once.claim(f"{count}-{number}") for number in range(count))
            )
            await asyncio.gather(*(once.complete(claim, b"%d" % claim.token) for claim in claims))
            assert len({claim.token for claim in claims}) == count
            assert await calls_of(mq, "evalsha", "eval") - before == 2 * -(-count // MAX_AT_ONCE)
        assert await asyncio.gather(*(once.claim(f"100-{number}") for number in range(100))) == [
            b"%d" % (number + 2) for number in range(100)
        ]


async def test_the_same_id_many_times_in_one_loop_turn_is_claimed_once(server):
    """One is mine; the others are told to wait."""
    async with store_of(server) as (once, _):
        got = await asyncio.gather(*(once.claim("m1") for _ in range(50)), return_exceptions=True)
        assert isinstance(got[0], Claim) and all(isinstance(each, InProgress) for each in got[1:])


# Lines that break, servers that die


@pytest.mark.parametrize("lost", ["answer", "request"])
async def test_running_again_after_complete_was_not_answered_gives_the_first_result(server, lost):
    """Whether it was done or not: one effect in the end.

    The proxy breaks the line at the completion, by its effect.
    """
    async with (
        FaultProxy(server.url) as proxy,
        store_of(server, url=proxy.url, lease_ms=LEASE_MS) as (once, mq),
    ):
        await once.run("warm", paying(amount=0))
        strike = proxy.drop_reply if lost == "answer" else proxy.drop_request
        strike(Match(containing=b"INCRBY"))
        with pytest.raises(ConnectionLost):
            await once.run("m1", paying(b"first"))
        assert await once.run("m1", paying(b"again"), wait_timeout_s=10) == (
            b"first" if lost == "answer" else b"again"
        )
        assert await account(mq) == 450


async def test_running_again_after_a_claim_was_not_answered_waits_for_its_lease(server):
    """The claim is somebody's who does not know of it."""
    async with (
        FaultProxy(server.url) as proxy,
        store_of(server, url=proxy.url, lease_ms=LEASE_MS) as (once, mq),
    ):
        await once.run("warm", paying(amount=0))
        proxy.drop_reply(Match("EVALSHA", b"once:{payments}"))
        with pytest.raises(ConnectionLost):
            await once.run("m1", paying())
        assert await once.run("m1", paying(), wait_timeout_s=10) == b"paid"
        assert await account(mq) == 450


async def test_a_completion_that_arrives_late_is_no_second_effect(server):
    """Held on its way until the message was handled again and done."""
    limits = ConnectionConfig(timeout_s=0.2, connect_timeout_s=2.0)
    async with (
        FaultProxy(server.url) as proxy,
        store_of(server, url=proxy.url, lease_ms=LEASE_MS, config=limits) as (slow, _),
        store_of(server, lease_ms=LEASE_MS) as (once, mq),
    ):
        await slow.run("warm", paying(amount=0))
        proxy.delay_request(Match(containing=b"INCRBY"))
        slow_run = asyncio.create_task(slow.run("m1", paying(b"slow")))
        await wait_until(lambda: proxy.triggered)
        assert await once.run("m1", paying(b"quick"), wait_timeout_s=10) == b"quick"
        with pytest.raises((CommandTimeout, ConnectionLost)):
            await slow_run
        proxy.release()
        async with asyncio.timeout(10):
            await proxy.wait_flushed()
        assert await slow.run("m1", paying(b"third")) == b"quick"
        assert await account(mq) == 450


async def test_marks_survive_a_server_that_is_killed_and_restarted(lab_server):
    """With appendfsync always: what was answered is on disk, and tokens go on ascending."""
    async with EmbeddedServer(persistence="always") as server, store_of(server) as (once, mq):
        claim = await once.claim("m0")
        await once.run("m1", paying(b"first"))
        server.kill()
        await server.start()
        await wait_until(lambda: mq.is_connected)
        assert await once.run("m1", paying(b"second")) == b"first"
        assert await once.complete(claim, b"zero") == b"zero"
        assert (await once.claim("m2")).token > claim.token + 1
        assert await account(mq) == 450


# Whatever happens

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "claim", "complete", "complete", "release", "crash", "sleep"]),
        st.sampled_from(range(3)),
        st.sampled_from(["a", "b"]),
    ),
    max_size=25,
)
SHORT_MS = 10


class Office:
    """Three workers, their claims, and what they were told.

    Each answer is checked against what it can only be.
    """

    def __init__(self, once, mq, run):
        self.once, self.mq, self.run = once, mq, run
        self.held, self.newest, self.results = {}, {}, {}

    async def step(self, what, worker, id):
        held = self.held.get((worker, id))
        if what == "claim":
            await self.claim(worker, id)
        elif what == "sleep":
            await asyncio.sleep(SHORT_MS * 1.2e-3)
        elif what == "crash":
            self.held = {key: claim for key, claim in self.held.items() if key[0] != worker}
        elif held is not None:
            del self.held[worker, id]
            await (self.once.release(held) if what == "release" else self.complete(held, id))

    async def claim(self, worker, id):
        try:
            got = await self.once.claim(f"{self.run}{id}")
        except InProgress:
            assert id not in self.results
            return
        if isinstance(got, bytes):
            assert got == self.results[id]
        else:
            assert id not in self.results and got.token > max(self.newest.values(), default=0)
            self.newest[id] = got.token
            self.held[worker, id] = got

    async def complete(self, claim, id):
        effects, its_own = AtomicEffects(), b"%d" % claim.token
        effects.add("INCR", f"done:{claim.id}")
        is_newest = claim.token == self.newest[id]
        try:
            result = await self.once.complete(claim, its_own, effects)
        except LeaseLost:
            assert not is_newest and id not in self.results
            return
        assert is_newest or id in self.results
        assert result == self.results.setdefault(id, its_own)

    async def close(self):
        """Somebody finishes at last; then each id has been done exactly once."""
        for name in ("a", "b"):
            got = await lease_over(self.once, f"{self.run}{name}")
            if isinstance(got, Claim):
                self.newest[name] = got.token
                await self.complete(got, name)
            assert await ask(self.mq, "GET", f"done:{self.run}{name}") == b"1"
            assert await self.once.claim(f"{self.run}{name}") == self.results[name]


def test_whatever_workers_do_each_id_is_done_once(lab_server):
    """Three workers claim, complete, release, die and sleep in any order, on two ids."""
    runs = iter(range(1_000_000))

    async def play(server, steps):
        async with store_of(server, scope="s", lease_ms=SHORT_MS) as (once, mq):
            office = Office(once, mq, f"{next(runs)}-")
            for step in steps:
                await office.step(*step)
            await office.close()

    with asyncio.Runner() as runner:
        server = EmbeddedServer()
        runner.run(server.start())
        try:
            settings(max_examples=40, deadline=None)(
                given(STEPS)(lambda steps: runner.run(play(server, steps)))
            )()
        finally:
            runner.run(server.stop())


@pytest.mark.parametrize("ids", ["a", "ab"])
async def test_a_work_that_asks_for_its_own_id_is_told_at_once(server, ids):
    """It would wait for itself until its lease is over, and then be done twice.

    By way of another id, too.
    """
    async with store_of(server) as (once, _):
        calls = []

        def asks(number):
            async def work(effects):
                calls.append(number)
                return await once.run(ids[(number + 1) % len(ids)], asks(number + 1))

            return work

        async with asyncio.timeout(10):
            with pytest.raises(InProgress):
                await once.run("a", asks(0))
        assert calls == list(range(len(ids)))
        assert await once.run("a", lambda effects: b"now") == b"now"

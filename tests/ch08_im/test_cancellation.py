"""A cancellation ends what it was sent to and nothing else.

Not the client, its neighbours, or what runs now and then.
"""

import asyncio
import itertools
import random

import pytest

from mpim_lab.errors import GatewayClosed, MpimError, StoreFailed, Unconfirmed
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.periodic import run_periodically
from mpim_lab.im.protocol.requests import SendGroupMessageRequest
from mpim_lab.im.services.batch_loader import BatchLoader
from mpim_lab.im.services.outbox import OutboxWorker
from mpim_lab.mq.connection.retry import Backoff
from tests.raw_clients import RawClient
from tests.raw_clients import system_of_its_own as system
from tests.support import wait_until

QUICK = {
    "gateway_config": GatewayConfig(
        maintenance_interval_s=0.05, rate_per_s=10_000, burst=10_000, max_violations=10_000
    )
}


async def cancelled_by_somebody_else():
    """Await something that somebody else cancels: the CancelledError is not ours."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    await future


async def turns(count):
    """Let the loop go round so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


# The caller's own


async def test_a_send_cancelled_at_any_moment_leaves_the_conversation_in_order():
    """After each of thirty turns of the loop.

    What was sent before and after arrives once and in order.
    """
    async with system(**QUICK) as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        for rounds in range(30):
            task = asyncio.create_task(alice.send("bob", f"cancelled {rounds}"))
            await turns(rounds)
            task.cancel()
            await asyncio.wait([task])
            assert (await alice.send("bob", f"kept {rounds}")).sequence
        got = [await asyncio.wait_for(bob.receive(), 10) for _ in range(30)]
        while "kept 29" not in [each.text for each in got]:
            got.append(await asyncio.wait_for(bob.receive(), 10))
        assert [each.text for each in got if "kept" in each.text] == [
            f"kept {rounds}" for rounds in range(30)
        ]
        assert [each.sequence for each in got] == sorted({each.sequence for each in got})
        assert not alice._requests._pending and alice._requests._permits._value == 32


async def test_the_same_message_asked_for_twice_and_one_of_them_cancelled_is_sent_once():
    """Whoever is left has the answer."""
    async with system(**QUICK) as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        for rounds in range(20):
            tasks = [
                asyncio.create_task(alice.send("bob", "hi", id=f"m{rounds}")) for _ in range(3)
            ]
            await turns(rounds)
            tasks[rounds % 3].cancel()
            results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
            assert {each.sequence for each in results if not isinstance(each, BaseException)} == {
                rounds + 1
            }
        assert [(await asyncio.wait_for(bob.receive(), 10)).id for _ in range(20)] == [
            f"m{n}" for n in range(20)
        ]


async def test_a_receive_cancelled_at_any_moment_loses_no_message():
    """Each message is handed over once, in order, to the next one who asks."""
    async with system(**QUICK) as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        got, chance = [], random.Random(7)

        async def read():
            while len(got) < 200:
                task = asyncio.create_task(bob.receive())
                await turns(chance.randrange(12))
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    got.append(task.result().text)

        reading = asyncio.create_task(read())
        for number in range(200):
            await alice.send("bob", f"{number}")
        await asyncio.wait_for(reading, 30)
        assert got == [f"{number}" for number in range(200)]


@pytest.mark.parametrize("call", ["create_group", "join", "members", "watch", "leave"])
async def test_a_request_cancelled_at_any_moment_can_be_made_again(call):
    """The client waits for nothing that was asked before."""
    async with system(**QUICK) as mpim, mpim.client("alice") as alice, mpim.client("bob") as bob:
        await bob.create_group("tea", "alice")
        for rounds in range(0, 24, 3):
            name = (
                f"group-{rounds}" if call == "create_group" else "bob" if call == "watch" else "tea"
            )
            task = asyncio.create_task(getattr(alice, call)(name))
            await turns(rounds)
            task.cancel()
            await asyncio.wait([task])
            async with asyncio.timeout(10):
                await getattr(alice, call)(name)
                await alice.join("tea")
        assert not alice._requests._pending and not alice._inbox._joining - {None}
        await alice.send_to_group("tea", "still a member")
        assert (await asyncio.wait_for(bob.receive(), 10)).text == "still a member"


async def test_opening_that_is_cancelled_at_any_moment_leaves_no_task_and_no_session():
    """After each of twenty turns of the loop."""
    async with system(**QUICK) as mpim:
        await asyncio.sleep(0.1)  # the gateway's own tasks have begun
        before = asyncio.all_tasks()
        for rounds in range(0, 60, 3):
            client = mpim.client("alice")
            opening = asyncio.create_task(client.__aenter__())
            await turns(rounds)
            opening.cancel()
            await asyncio.wait([opening])
            await client.close()
            assert not {task for task in client._tasks if not task.done()}
        await wait_until(
            lambda: (
                not len(mpim.gateways["gw-1"].sessions) and not mpim.gateways["gw-1"].connections
            )
        )

        await wait_until(lambda: not asyncio.all_tasks() - before)
        assert await mpim.services.presence.query_route("alice") == []


async def test_a_membership_change_cancelled_after_its_commit_is_not_hidden_by_an_old_copy():
    """The copy in Redis is dropped all the same: who asks sees what the database has."""
    async with system() as mpim:
        groups = mpim.services.groups
        await groups.create("tea", "alice", ["bob"])
        for rounds in range(0, 60, 2):
            await groups.members("tea")
            action = groups.leave if "bob" in await groups.members("tea") else groups.join
            task = asyncio.create_task(action("tea", "bob"))
            await turns(rounds)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.gather(*groups._invalidations)
            assert await groups.members("tea") == await groups._read("tea")


# Somebody else's


async def test_a_token_function_that_meets_a_foreign_cancellation_is_asked_again():
    """It has failed, like any other; the client comes in the second time."""
    async with system() as mpim:
        tries = itertools.count()

        async def token():
            if next(tries) == 0:
                await cancelled_by_somebody_else()
            return mpim.tokens.issue("alice")

        async with (
            asyncio.timeout(10),
            Client(mpim.addresses, token, backoff=Backoff(0.01, 0.1)) as alice,
        ):
            assert alice.gateway == "gw-1"


async def test_a_callback_that_raises_a_cancellation_does_not_hang_up():
    """A plain call cannot be cancelled; it is logged, and messages go on over the same line."""

    def fail(frame):
        raise asyncio.CancelledError

    async with system() as mpim, mpim.client("alice", on_broadcast=fail, on_presence=fail) as alice:
        await alice.watch("bob")
        await mpim.broadcast("hello")
        async with mpim.client("bob") as bob:
            await bob.send("alice", "still there?")
        assert (await asyncio.wait_for(alice.receive(), 10)).text == "still there?"
        assert mpim.gateways["gw-1"].metrics.welcomed == 2


async def test_an_observer_that_raises_changes_nothing():
    """Neither of a client nor of a gateway."""

    def fail(event):
        raise RuntimeError("a mistake")

    async with (
        system(observer=fail) as mpim,
        mpim.client("alice") as alice,
        mpim.client("bob") as bob,
    ):
        await alice.send("bob", "hi")
        assert (await asyncio.wait_for(bob.receive(), 10)).text == "hi"


async def test_work_that_goes_round_survives_all_but_its_own_cancellation():
    """Errors of ours, of others, and cancellations of others: the next turn comes.

    Cancelled itself, it ends.
    """
    did = []

    async def work():
        did.append(len(did))
        if len(did) == 1:
            raise MpimError("the server is away")
        if len(did) == 2:
            raise RuntimeError("a mistake")
        if len(did) == 3:
            await cancelled_by_somebody_else()

    task = asyncio.create_task(run_periodically("work", work, 0.001))
    await wait_until(lambda: len(did) > 5)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_who_asked_first_and_is_cancelled_takes_nobody_along():
    """The query runs for the others."""
    gate = asyncio.Event()

    async def fetch(names):
        await gate.wait()
        return {name: name.upper() for name in names}

    gathered = BatchLoader(fetch, max_batch=10)
    first, second = asyncio.create_task(gathered.load("a")), asyncio.create_task(gathered.load("a"))
    await turns(3)
    first.cancel()
    third = asyncio.create_task(gathered.load("b"))
    await turns(3)
    gate.set()
    assert await asyncio.wait_for(asyncio.gather(second, third), 5) == ["A", "B"]


async def test_a_query_that_meets_a_foreign_cancellation_has_failed_and_cancels_nobody():
    """StoreFailed, which passes; whoever asks meanwhile or next is answered."""
    calls = itertools.count()

    async def fetch(names):
        if next(calls) == 0:
            await cancelled_by_somebody_else()
        return {name: name.upper() for name in names}

    gathered = BatchLoader(fetch, max_batch=1)
    results = await asyncio.wait_for(
        asyncio.gather(gathered.load("a"), gathered.load("b"), return_exceptions=True), 5
    )
    assert isinstance(results[0], StoreFailed) and results[0].transient and results[1] == "B"
    assert await asyncio.wait_for(gathered.load("a"), 5) == "A"


@pytest.mark.parametrize("to", ["alone", "group"])
async def test_a_service_that_meets_a_foreign_cancellation_answers_that_it_is_unconfirmed(
    to, monkeypatch
):
    """The connection lives; the client sends it again, with its id, and it is kept once."""
    async with system(**QUICK) as mpim:
        messages = mpim.gateways["gw-1"].services.messages
        await mpim.services.groups.create("tea", "alice", ["bob"])
        store, calls = messages.store_offline, itertools.count()

        async def fail_once(uids, message):
            if next(calls) == 0:
                await cancelled_by_somebody_else()
            await store(uids, message)

        monkeypatch.setattr(messages, "store_offline", fail_once)
        async with RawClient(mpim.addresses[0]) as alice:
            await alice.hello("alice")
            frame = {"t": "send", "id": "m1", "text": "hi"} | (
                {"to": "bob"} if to == "alone" else {"group": "tea"}
            )
            problem = await alice.ask(frame, "error")
            assert (problem["error"], problem["definite"], problem["transient"]) == (
                "Unconfirmed",
                False,
                True,
            )
            assert (await alice.ask(frame, "sent"))["sequence"] == 1


async def test_a_mistake_of_the_service_is_told_by_name_and_the_connection_lives(monkeypatch):
    """What is no error of ours never passes for a disconnection."""
    async with system(**QUICK) as mpim, mpim.client("alice", timeout_s=1.0) as alice:
        messages = mpim.gateways["gw-1"].services.messages

        async def fail(request):
            raise RuntimeError("a mistake")

        monkeypatch.setattr(messages, "send_group_message", fail)
        with pytest.raises(Unconfirmed, match="RuntimeError: a mistake"):
            await alice.send_to_group("tea", "hi")
        assert (await alice.send("bob", "hi")).status == "stored"
        assert mpim.gateways["gw-1"].metrics.welcomed == 1


async def test_an_outbox_goes_on_past_what_cannot_be_done_whatever_it_raises(monkeypatch):
    """A foreign cancellation, a mistake, an entry that nobody can read.

    What stands behind them is done.
    """
    async with system(outbox_min_age_s=3_600) as mpim:
        messages, groups = mpim.services.messages, mpim.services.groups
        monkeypatch.setattr(messages, "complete_outbox", lambda todo: asyncio.sleep(0))
        link, outbox = messages.log.commands, OutboxWorker(messages)
        await link.call("XADD", messages.log.outbox, "*", "nonsense", "x")
        for name in ("cancelled", "mistaken", "fine"):
            await groups.create(name, "alice", ["bob"])
            await messages.send_group_message(SendGroupMessageRequest("m1", "alice", name, "hi"))
        members = messages.groups.members

        async def fail(group):
            if group == "cancelled":
                await cancelled_by_somebody_else()
            if group == "mistaken":
                raise RuntimeError("a mistake")
            return await members(group)

        monkeypatch.setattr(messages.groups, "members", fail)
        assert await outbox.run_once(0) == 1
        left = {each.conversation for each in await messages.log.due_entries(0)}
        assert {"#cancelled", "#mistaken"} < left and "#fine" not in left and len(left) == 3


async def test_one_acknowledgement_that_is_refused_for_good_does_not_hold_up_the_others():
    """Its user's numbers are something else on the server.

    It is let go, and the others are noted.
    """
    async with system(**QUICK) as mpim:
        gateway, ledger = mpim.gateways["gw-1"], mpim.services.messages.log
        async with mpim.client("alice") as alice:
            for uid in ("bob", "carol"):
                await alice.send(uid, "hi")
        await ledger.commands.call("SET", ledger.queue.keys.acked("bob"), "nonsense")
        for uid in ("bob", "carol"):
            gateway._acks.add(uid, f"alice:{uid}", 1, is_stored=False)
        async with asyncio.timeout(10):
            while (await ledger.read_positions("carol")).get("alice:carol") != 1:
                await asyncio.sleep(0.02)
        await wait_until(lambda: not gateway._acks._pending)


async def test_closing_ends_every_wait_and_a_closed_client_is_closed():
    """Those who receive, send, and iterate: all at once."""
    async with system() as mpim:
        alice = await mpim.client("alice").__aenter__()
        await mpim.stop("gw-1")
        waiting = [
            asyncio.create_task(each)
            for each in (alice.receive(), alice.send("bob", "hi"), alice.join("tea"))
        ]
        await turns(5)
        async with asyncio.timeout(5):
            await asyncio.gather(alice.close(), alice.close())
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in results] == [GatewayClosed] * 3

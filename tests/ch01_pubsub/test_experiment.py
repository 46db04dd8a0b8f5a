"""Chapter 1's experiment: the naive version breaks the same way every time, the fix holds."""

import asyncio

import pytest

from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.errors import FaultUnavailable
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.injector import PUBSUB_FAULTS, schedule_faults
from mpim_lab.lab.server.embedded import EmbeddedServer
from tests.support import REPEATS, wait_until


def duration_of(fault):
    """How long a fault must last to bite.

    The slow subscriber's buffer takes a few photos before it is full.
    """
    return 10 if fault == "slow" else 3


async def test_without_a_fault_both_designs_deliver_everything(lab_server):
    """The naive version looks right until something goes wrong."""
    for design in ("naive", "confirmed"):
        verdict = (await PubSubDelivery(design=design, fault="none").run()).verdict
        assert verdict.semantics == "exactly once in this run, in order"


@pytest.mark.parametrize("seed", range(REPEATS))
async def test_the_naive_version_loses_exactly_the_messages_published_while_bob_was_away(
    lab_server, seed
):
    """And alice was told "delivered" for each of them."""
    verdict = (
        await PubSubDelivery(design="naive", fault="away", duration=6, seed=seed).run()
    ).verdict
    hit = tuple(f"m{fault.at}" for fault in schedule_faults(seed, "away", messages=24, duration=6))
    assert verdict.lost == hit
    assert verdict.silently_lost == hit


@pytest.mark.parametrize("fault", sorted(PUBSUB_FAULTS))
@pytest.mark.parametrize("seed", [1, 7][:REPEATS])
async def test_every_fault_catches_the_naive_version(lab_server, fault, seed):
    """A checker that passes the naive twin would be worth nothing."""
    verdict = (
        await PubSubDelivery(
            design="naive", fault=fault, duration=duration_of(fault), seed=seed
        ).run()
    ).verdict
    assert verdict.lost
    assert verdict.semantics.startswith("at most once")


@pytest.mark.parametrize("fault", sorted(PUBSUB_FAULTS))
@pytest.mark.parametrize("seed", [1, 7][:REPEATS])
async def test_confirmation_loses_nothing_under_the_same_faults(lab_server, fault, seed):
    """At least once: nothing lost, nobody misinformed; repeats may arrive twice."""
    verdict = (
        await PubSubDelivery(
            design="confirmed", fault=fault, duration=duration_of(fault), seed=seed
        ).run()
    ).verdict
    assert verdict.lost == ()
    assert verdict.silently_lost == ()


async def test_a_slow_subscriber_is_handed_messages_that_it_never_gets(lab_server):
    """The server counts him as a receiver until his buffer is full: receivers=1 is no delivery."""
    result = await PubSubDelivery(design="naive", fault="slow", duration=10).run()
    counted = {
        event.message_id for event in result.trace.by_kind(EventKind.PUBLISHED) if event.count
    }
    assert set(result.verdict.lost) & counted


async def test_a_repeat_may_arrive_twice(lab_server):
    """A slow receiver confirms late: the sender has repeated meanwhile.

    That is why idempotency exists.
    """
    verdict = (await PubSubDelivery(design="confirmed", fault="slow", duration=10).run()).verdict
    assert verdict.duplicated
    assert verdict.semantics.startswith("at least once")


async def test_a_publish_that_timed_out_was_done_all_the_same(lab_server):
    """alice was told "failed, perhaps sent".

    The stopped server went on and handed the message over.
    """
    result = await PubSubDelivery(design="naive", fault="pause", duration=2).run()
    told = {event.message_id: event.outcome for event in result.trace.by_kind(EventKind.OUTCOME)}
    (perhaps,) = [
        message for message, detail in told.items() if detail.startswith("failed, perhaps sent")
    ]
    assert perhaps not in result.verdict.lost


@pytest.mark.parametrize("fault", sorted(PUBSUB_FAULTS))
async def test_the_same_seed_gives_the_same_verdict(lab_server, fault):
    """Whatever the machine does meanwhile; `tests/load` has the hundred repeats."""
    verdicts = [
        (
            await PubSubDelivery(
                design="naive", fault=fault, duration=duration_of(fault), messages=16
            ).run()
        ).verdict
        for _ in range(max(2, REPEATS))
    ]
    assert len(set(verdicts)) == 1


async def test_a_fault_can_be_caused_by_hand_while_the_run_goes_on(lab_server):
    """What the panel's buttons do."""
    run = PubSubDelivery(fault="none", messages=200, pace_ms=10, duration=2).start()
    await wait_until(lambda: run.injector is not None)
    await run.inject("cut")
    await wait_until(lambda: any(run.trace.by_kind(EventKind.FAULT_ENDED)))
    run.stop()
    assert (await run.result()).verdict.lost


async def test_a_run_that_is_cancelled_leaves_no_server_behind(lab_server, monkeypatch):
    """An interrupted cell must not leave processes."""
    started = []
    start = EmbeddedServer.start

    async def noted(server):
        await start(server)
        started.append(server)

    monkeypatch.setattr(EmbeddedServer, "start", noted)
    task = asyncio.create_task(PubSubDelivery(fault="none", messages=2_000, pace_ms=100).run())
    await wait_until(lambda: started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: not started[0].is_running)


async def test_on_the_readers_own_server_process_faults_say_why_they_are_not_offered(
    server, monkeypatch
):
    """kill, pause and slow need a server of the lab's own; away and cut work anywhere."""
    monkeypatch.setenv("MPIM_REDIS_URL", server.url)
    for fault in ("kill", "pause", "slow"):
        with pytest.raises(FaultUnavailable, match="yours"):
            await PubSubDelivery(fault=fault).run()
    for fault in ("away", "cut"):
        assert (await PubSubDelivery(fault=fault, duration=3).run()).verdict.lost

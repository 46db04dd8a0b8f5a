"""Random schedules over the public API: some of them here, 20,000 steps in `make soak`."""

import asyncio
import contextlib

import pytest

from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.stream import Stream
from mpim_lab.soak.api import members
from mpim_lab.soak.api.actions import ACTIONS
from mpim_lab.soak.api.campaign import Host, Options
from mpim_lab.soak.api.schedule import Step, parse_steps, schedule_of, shrunk
from tests.conftest import SERVERS

SEEDS = range(1, 8)


@pytest.fixture
def host(server_kind):
    """A server on which schedules are played one after the other."""
    host = Host(Options(server=SERVERS[server_kind], shrink=0))
    yield host
    host.stop()


@pytest.fixture
def one_host():
    """The same, where it makes no difference which server it is."""
    host = Host(Options(shrink=0))
    yield host
    host.stop()


def test_some_random_schedules_break_no_invariant(host):
    """About 200 steps on each server: no call hangs, nothing is lost, nothing is left behind."""
    for seed in SEEDS:
        steps = host.options.schedule(seed)
        played = host.play(seed, steps)
        assert not played.violations, host.report(seed, steps, played)


def test_the_same_seed_gives_the_same_schedule():
    """So that a failing one can be played again."""
    schedule = Options().schedule(17)
    assert schedule == Options().schedule(17) != Options().schedule(18)
    assert parse_steps(map(str, schedule)) == schedule
    assert {step.action for step in schedule} <= ACTIONS.keys()


def test_a_schedule_is_shrunk_to_what_its_failure_needs():
    """Two steps of forty are needed, and one of them need not be cancelled."""
    steps = schedule_of(3, 40, {"pubsub": {"publish": 3, "subscribe": 1}})
    steps[11], steps[30] = Step("listen", 1, "cancel"), Step("leave", 2)
    played = []

    def fails(candidate):
        played.append(candidate)
        return [step.action for step in candidate if step.action in ("listen", "leave")] == [
            "listen",
            "leave",
        ]

    assert shrunk(steps, fails) == [Step("listen", 1), Step("leave", 2)]
    assert len(played) <= 80


def play(host, text):
    return host.play(0, parse_steps(text.split())).kind


def test_a_call_that_does_not_end_is_found(one_host, monkeypatch):
    """It is a hang once its limit and some slack are over."""
    monkeypatch.setattr(
        MessageQueue, "unsubscribe", lambda queue, channel, **options: asyncio.Event().wait()
    )
    assert play(one_host, "unsubscribe:1") == "hang"


def test_a_subscription_that_stays_on_the_server_is_found(one_host, monkeypatch):
    """The server's list of channels is compared with the model."""

    async def nothing(queue, channel, **options):
        return None

    monkeypatch.setattr(MessageQueue, "unsubscribe", nothing)
    assert (
        play(one_host, "subscribe:1 unsubscribe:5 subscribe:2 unsubscribe:7 unsubscribe:8")
        == "subscriptions"
    )


def test_an_acknowledged_entry_that_is_not_there_is_found(one_host, monkeypatch):
    """An id that the server never gave."""

    async def lie(stream, payload, **options):
        return "9999999999999-0"

    monkeypatch.setattr(Stream, "add", lie)
    monkeypatch.setattr(
        Stream, "add_many", lambda stream, payloads: asyncio.gather(*map(stream.add, payloads))
    )
    assert play(one_host, "add:1 add:2 add:3") == "lost"


def test_a_foreign_error_and_a_foreign_cancellation_are_found(one_host, monkeypatch):
    """Only errors of ours, ValueError and TypeError may reach a caller.

    CancelledError only if it was cancelled.
    """
    for error, kind in (
        (OSError("raw"), "foreign error"),
        (asyncio.CancelledError(), "foreign cancellation"),
    ):

        async def fails(queue, *given, error=error):
            raise error

        monkeypatch.setattr(MessageQueue, "publish", fails)
        assert play(one_host, "publish:1") == kind


def test_a_task_that_is_left_running_is_found(one_host, monkeypatch):
    """Once everything is closed, nothing of ours may run."""
    real, left = MessageQueue.close, []

    async def close(queue):
        await real(queue)
        left.append(asyncio.create_task(asyncio.sleep(10)))

    monkeypatch.setattr(MessageQueue, "close", close)
    assert play(one_host, "publish:1") == "task left"


JOINED = "join:1 join:2 join:3 join:4"


async def swallow(queue, channel, **options):
    """A call that returns although it was cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(5)


async def write_elsewhere(queue, channel, payload):
    """A call that writes a key without the queue's prefix."""
    await queue.connection.call("SET", "stray", "1")


add_effect = AtomicEffects.add


def add_twice(effects, *words):
    """An effect that happens twice."""
    add_effect(effects, *words)
    add_effect(effects, *words)


def forget_effect(effects, *words):
    """An effect that never happens."""


def handle_nothing(w, group, is_async):
    """A worker's handler that does not do its work."""
    return lambda entry: None


@pytest.mark.parametrize(
    ("kind", "where", "name", "flaw", "steps"),
    [
        ("swallowed", MessageQueue, "unsubscribe", swallow, "unsubscribe:41:cancel"),
        ("keys", MessageQueue, "publish", write_elsewhere, "publish:1"),
        ("not once", AtomicEffects, "add", add_twice, "run_once:1"),
        ("told twice", AtomicEffects, "add", add_twice, "append:1 append:2"),
        ("never told", AtomicEffects, "add", forget_effect, "append:1 append:2"),
        (
            "never handled",
            members,
            "_handler",
            handle_nothing,
            "join:1 join:2 join:3 join:4 add:1 add:2",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_flaw_has_its_violation(one_host, monkeypatch, kind, where, name, flaw, steps):
    """Whatever is done wrong, once or always."""
    monkeypatch.setattr(where, name, flaw)
    assert play(one_host, steps) == kind

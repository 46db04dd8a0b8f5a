"""Whatever happens, in whatever order: what was acknowledged has its effect exactly once, in order per conversation.

Hypothesis chooses what happens next: messages, repeats, lines that break, workers that die, sleep,
come and go.
"""

import asyncio
import itertools

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from mpim_lab.chapters.shared.experiment import summarize
from mpim_lab.chapters.shared.worker_fleet import SimulatedCrash
from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.soak.designs import DESIGNS
from mpim_lab.soak.scenario import SoakScenario
from mpim_lab.soak.schedule import SENDERS, PlannedFault, PlannedMessage, Schedule

pytestmark = pytest.mark.timeout(120)

EXAMPLES, STEPS, MOST_WORKERS = 15, 14, 4
SETTINGS = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    print_blob=False,
)
CONVERSATIONS, WHO = st.sampled_from(("ann", "bob", "cid")), st.integers(0, SENDERS - 1)
runs = itertools.count(1)  # each has its own keys


class Guarantee(RuleBasedStateMachine):
    """Two senders, workers and a ledger on a real server; the loop runs only while a rule does.

    Which rules there are to choose from depends on what was chosen before, not on how far the
    workers are.
    """

    server, design = None, "correct"

    def __init__(self):
        super().__init__()
        self.loop, self.trace = asyncio.new_event_loop(), Trace(sample_above_per_s=None)
        nothing = Schedule(seed=next(runs), messages=(), faults=(), workers=1, lease_ms=180)
        self.stage = SoakScenario(
            self.server, nothing, DESIGNS[self.design], self.trace, answer_timeout_s=0.1
        )
        self.do(self.stage.__aenter__())

    def do(self, coroutine):
        """Run the loop until this is done; workers and senders go on meanwhile."""
        return self.loop.run_until_complete(coroutine)

    def send(self, sender, conversation, fault=None):
        """A new message, and the fault that strikes it."""
        name = f"m{len(self.stage.schedule.messages) + 1}"
        planned = PlannedMessage(name, sender, conversation, f"{name} hello".encode(), pause_ms=0)
        self.stage.add_message(
            planned, PlannedFault(fault, name, duration=1_000) if fault else None
        )
        self.do(self.stage.send(planned))

    # What may happen

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_message_is_sent(self, sender, conversation):
        self.send(sender, conversation)

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_request_is_lost(self, sender, conversation):
        self.send(sender, conversation, "request lost")

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def an_answer_is_lost(self, sender, conversation):
        self.send(sender, conversation, "answer lost")

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_request_is_held_back(self, sender, conversation):
        self.send(sender, conversation, "request late")

    @rule(sender=WHO)
    def what_was_held_back_arrives(self, sender):
        self.do(self.stage.gateways[sender].release())

    @precondition(lambda self: self.stage.schedule.messages)
    @rule(sender=WHO, number=st.integers(0, 100))
    def an_earlier_message_is_sent_again(self, sender, number):
        messages = self.stage.schedule.messages
        self.do(self.stage.gateways[sender].send_once(messages[number % len(messages)]))

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_worker_dies_before_its_work(self, sender, conversation):
        self.send(sender, conversation, "crash before work")

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_worker_dies_after_its_commit(self, sender, conversation):
        self.send(sender, conversation, "crash after work")

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_worker_does_not_hear_that_it_has_committed(self, sender, conversation):
        self.send(sender, conversation, "answer to the worker lost")

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_commit_is_held_back(self, sender, conversation):
        self.send(sender, conversation, "commit late")

    @rule()
    def the_commit_that_was_held_back_arrives(self):
        self.do(self._in_the_loop(self.stage.line.release))

    @rule(sender=WHO, conversation=CONVERSATIONS)
    def a_worker_falls_asleep(self, sender, conversation):
        self.send(sender, conversation, "zombie")

    @rule()
    def sleepers_are_replaced_and_wake(self):
        self.do(wait_until(self._nobody_sleeps, "the take-over"))

    async def _in_the_loop(self, act):
        act()
        await asyncio.sleep(0.001)

    async def _nobody_sleeps(self):
        await self.stage.fleet.poll()
        return not self.stage.fleet.sleeping

    @rule()
    def a_worker_is_started(self):
        if self.stage.fleet.awake < MOST_WORKERS:
            self.do(self._in_the_loop(self.stage.fleet.start_worker))

    @rule()
    def a_worker_leaves(self):
        if self.stage.fleet.awake > 1:
            self.do(self._in_the_loop(self.stage.fleet.stop_oldest))

    @rule()
    def time_passes(self):
        self.do(asyncio.sleep(0.03))

    # What must hold

    def teardown(self):
        """Everything is let go and drained, and then judged: the ledger forgets nothing."""
        try:
            verdict = self.do(self.stage.finish())
        finally:
            self.do(self.stage.__aexit__(None, None, None))
            self.loop.close()
        assert summarize(verdict) == "✓", summarize(verdict)


def machine(server, design):
    """The machine with its server and design, as a class, which is what Hypothesis wants."""
    return type("Guarantee", (Guarantee,), {"server": server, "design": design})


def test_the_correct_design_keeps_its_promise_whatever_happens(server):
    """Stories that Hypothesis made up."""
    run_state_machine_as_test(machine(server, "correct"), settings=SETTINGS)


@pytest.mark.parametrize("design", ["at least once", "no fence"])
def test_a_naive_design_is_falsified(server, design):
    """The same machine finds a story in which an effect is there twice, or out of order."""
    with pytest.raises(AssertionError, match=r"twice|out of order"):
        run_state_machine_as_test(
            machine(server, design), settings=settings(SETTINGS, phases=[Phase.generate])
        )


async def attend(stream, handler, name, retry):
    """A worker until it dies, or until nothing is left to do."""
    worker = OrderedWorker(stream, "billing", name, handler, retry=retry, lease_ms=60)
    task = asyncio.create_task(worker.run())
    while not task.done() and await stream.lag("billing"):
        await asyncio.sleep(0.005)
    if not task.done():
        await worker.stop()
    await asyncio.wait([task])
    return isinstance(task.exception(), SimulatedCrash)


async def test_messages_beside_a_killer_are_not_given_up_with_it(server):
    """Who dies over one partition's message has not tried the others'.

    Only the killer becomes a dead letter.
    """
    retry, handled = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.001, max_s=0.001)), []

    def handler(ordered, effects):
        handled.append(ordered.data)
        if ordered.data == b"killer":
            raise SimulatedCrash("killed")

    async with MessageQueue(server.url) as mq:
        stream = PartitionedStream(mq, "orders", partitions=4)
        names = {stream.partition_of(name): name for name in map(str, range(100))}
        for partition in range(4):
            await stream.append(names[partition], b"killer" if partition == 0 else b"harmless")
        deaths = 0
        while await attend(stream, handler, f"worker-{deaths}", retry):
            deaths += 1
        letters = [
            await stream.dead_letters("billing", partition).count() for partition in range(4)
        ]
    assert deaths == handled.count(b"killer") == retry.max_attempts
    assert handled.count(b"harmless") == 3
    assert letters == [1, 0, 0, 0]

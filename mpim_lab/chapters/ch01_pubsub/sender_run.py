"""SenderRun: alice sends to bob, who comes and goes; what chapter 1's challenges have in common."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from mpim_lab.errors import MpimError
from mpim_lab.events import Event, EventKind, message_id
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise.actors import Actor
from mpim_lab.lab.exercise.schedule_run import ScheduleRun
from mpim_lab.lab.exercise.schedules import IS_HELD, LOSES_CONNECTION, Action
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.lab.faults.injector import Gate
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue

AWAY_S = 0.4  # how long bob stays away: the time of many messages
BOB, CAROL = "1001", "20 02:{käthe}"
COMES_OR_GOES = Action("bob comes or goes", weight=3.0)
IS_CUT = Action("bob's connection is cut for a while")
LOSES_HERS = Action(LOSES_CONNECTION.name, on_calls=False, weight=0.5)
_QUICKLY_BACK = ConnectionConfig(backoff=Backoff(initial_s=0.005, max_s=0.02))
DELIVERED = "delivered"
_OF_MESSAGES = (EventKind.ACCEPTED, EventKind.PUBLISHED, EventKind.FAILED)


@dataclass(eq=False)
class Sent:
    """One message: what was said of it, and how often it came at each place.

    `is_in_doubt`: its sender's own connection broke meanwhile.
    """

    id: str
    payload: bytes
    sender: str
    at: int
    came: list[int] = field(default_factory=list)
    outcome: str = ""
    is_in_doubt: bool = False

    @property
    def has_come(self) -> bool:
        """Whether it came at one of the places."""
        return any(self.came)


class Receiver:
    """bob: he listens at one place or at two, goes, comes back, or has his connections cut."""

    def __init__(self, run: "SenderRun", name: str, uid: str) -> None:
        self.name, self.uid, self.is_here, self.changes = name, uid, False, 0
        self.sent: list[Sent] = []
        self.current: dict[str, Sent] = {}  # by sender
        self._run, self._places = run, list[MessageQueue]()
        self._gate, self._lock, self._is_cut = Gate(), asyncio.Lock(), False

    async def open(self, places: int) -> None:
        """Connect; he does not listen yet."""
        for _ in range(places):
            queue = await self._run.queue(
                self._run.server,
                f"{self._run.prefix}{self.name}",
                config=_QUICKLY_BACK,
                sleep=self._gate.sleep,
            )
            self._places.append(queue)

    def expect(self, id: str, payload: bytes, sender: str) -> Sent:
        """Note what is sent to him now."""
        sent = Sent(id, payload, sender, len(self.sent), [0] * len(self._places))
        self.sent.append(sent)
        self.current[sender] = sent
        return sent

    async def come(self) -> None:
        """Listen, at every place; after a cut, by connections made anew."""
        async with self._lock:
            if self._is_cut:
                self._is_cut = False
                self._gate.open()
                await self._run.until(lambda: all(each.is_connected for each in self._places))
            elif not self.is_here:
                for place, queue in enumerate(self._places):
                    await queue.subscribe(
                        user_channel(self.uid), lambda message, at=place: self._on(message, at)
                    )
            else:
                return
            self.is_here, self.changes = True, self.changes + 1

    async def go(self) -> None:
        """Stop listening: what has arrived is read before."""
        async with self._lock:
            if self.is_here:
                self.is_here, self.changes = False, self.changes + 1
                for queue in self._places:
                    await queue.unsubscribe(user_channel(self.uid))

    async def cut(self) -> None:
        """Cut his connections, after all is read; they cannot come back until he does."""
        async with self._lock:
            if self.is_here:
                await self.read_all()
                self.is_here, self._is_cut, self.changes = False, True, self.changes + 1
                await self._gate.close()
                await cut_connections(self._run.server, f"{self._run.prefix}{self.name}")
                await self._run.until(
                    lambda: not any(each.open_connections for each in self._places)
                )

    async def read_all(self) -> None:
        """Read what the server has sent him so far."""
        for queue in self._places:
            await queue.drain()

    def _on(self, message: Message, place: int) -> None:
        earlier = [*self.current.values(), *reversed(self.sent)]
        sent = next((each for each in earlier if each.payload == message.payload), None)
        if sent is None:
            text = f"{self.name} got {message.payload!r:.40}, which nobody has sent"
            return self._run.say(Violation(text, 1))
        sent.came[place] += 1
        self._run.report(EventKind.HANDLED, self.name, sent.id)
        later = (
            each
            for each in self.sent[sent.at + 1 :]
            if each.sender == sent.sender and each.came[place] and not each.is_in_doubt
        )
        if (after := next(later, None)) is not None and not sent.is_in_doubt:
            self._run.say(Violation(f"{sent.id} came after {after.id}", 1, sent.id))


class SenderRun(ScheduleRun):
    """alice sends to bob, who comes and goes."""

    workloads = (
        "bob is there",
        "bob comes later",
        "bob listens at two places",
        "to bob and carol at once",
        "alice and dave",
    )
    hold_s = 0.3
    # Numbers of guarantees: against repeats, and about the end of `send`
    repeats: ClassVar[int] = 1
    end: ClassVar[int] = 4

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bob, self.carol = Receiver(self, "bob", BOB), Receiver(self, "carol", CAROL)
        self._problem: Violation | None = None
        self._queues: dict[str, MessageQueue] = {}
        # How many breaks of a sender's own connection it has got over
        self._got_over = Counter[str]()

    async def play(self) -> None:
        """Send what the workload has."""
        await self.bob.open(2 if self.workload == "bob listens at two places" else 1)
        if self.workload not in ("bob comes later", "to bob and carol at once"):
            await self.bob.come()
        elif self.comes_by_himself:
            self.background(self._comes_later())
        await self._send_all()
        if any(each.action == IS_HELD.name for each in self.schedule.disturbances):
            await asyncio.sleep(self.hold_s)  # what its sender did not wait for comes late
        for receiver in (self.bob, self.carol):
            if receiver.is_here:
                await receiver.read_all()
        self._check()

    comes_by_himself: ClassVar[bool] = True

    async def _comes_later(self) -> None:
        await asyncio.sleep(AWAY_S)
        await self.bob.come()

    async def _send_all(self) -> None:
        alice, make = await self._sender("alice")
        if self.workload == "bob is there":
            long = b"m4 " + b"0123456789" * 4_000
            await self._send(
                alice, make(), self.bob, "m1 hello", b"", b"m3 \xff\x00\r\n$5\r\n", long
            )
        elif self.workload == "bob comes later":
            own = make()
            await self._send(alice, own, self.bob, "m1 are you there?")
            await self.bob.come()
            await self._send(alice, own, self.bob, "m2 hello")
        elif self.workload == "bob listens at two places":
            await self._send(alice, make(), self.bob, "yes", "m2 no", "yes")
        elif self.workload == "to bob and carol at once":
            await self.carol.open(1)
            await self.carol.come()
            await asyncio.gather(
                self._send(alice, make(), self.bob, "m1 hello bob", "m2 how are you?"),
                self._send(alice, make(), self.carol, "m1 hello carol", "m2 how are you?"),
            )
        else:
            dave, make_his = await self._sender("dave")
            await asyncio.gather(
                self._send(alice, make(), self.bob, "m1 alice here", "m2 bye"),
                self._send(dave, make_his(), self.bob, "m3 dave here", "m4 bye"),
            )

    async def _sender(self, name: str) -> tuple[Actor, Any]:
        actor = await self.actor(name)
        queue = await self.queue(
            actor.url, name, observer=self._observer(name), config=_QUICKLY_BACK
        )
        self._queues[name] = queue
        kind = self.solution.load()
        return actor, lambda: kind(queue)

    def _observer(self, name: str) -> Callable[[Event], None]:
        """Observe one sender: its events, under the ids of messages without one of their own."""

        def observe(event: Event) -> None:
            current = (each.current.get(name) for each in (self.bob, self.carol))
            for sent in current if event.kind in _OF_MESSAGES else ():
                if sent is not None and message_id(sent.payload) == event.message_id:
                    event = replace(event, message_id=sent.id)
            self.trace(event)

        return observe

    async def _send(self, actor: Actor, own: Any, bob: Receiver, *payloads: str | bytes) -> None:
        """Send one after the other, and look each time at what bob has."""
        for each in payloads:
            self._check()
            payload = each.encode() if isinstance(each, str) else each
            number = len(self.bob.sent) + len(self.carol.sent) + 1
            sent = bob.expect(f"m{number}", payload, actor.name)
            changes, was_here, got_over = bob.changes, bob.is_here, self._got_over[actor.name]
            task = actor.spawn(self._outcome(own, bob.uid, sent))
            if not await self.until(task.done):
                text = f"`send` has not returned for {sent.id} after {self.limit_s:g} s"
                raise Violation(text, self.end, sent.id)
            error = task.exception()
            sent.is_in_doubt = self._breaks(actor) > got_over
            if isinstance(error, Violation):
                raise error
            if error is not None and not (sent.is_in_doubt and isinstance(error, MpimError)):
                text = f"`send` raised {type(error).__name__} for {sent.id}: {error}"
                raise Violation(text, self.end, sent.id, error)
            if bob.is_here:
                await bob.read_all()
            self._check()
            stayed = was_here and bob.changes == changes
            self._judge_outcome(bob, sent, stayed=stayed)
            if sent.is_in_doubt:
                await self.until(lambda: self._queues[actor.name].is_connected)
                self._got_over[actor.name] = self._breaks(actor)

    async def _outcome(self, own: Any, uid: str, sent: Sent) -> None:
        outcome = await finished("send", own.send(uid, sent.payload))
        if not isinstance(outcome, str):
            raise Violation(f"`send` returned {outcome!r:.40} instead of a text", 0, sent.id)
        sent.outcome = outcome
        self.report(EventKind.OUTCOME, sent.sender, sent.id, outcome=outcome)

    def _breaks(self, actor: Actor) -> int:
        """How often this actor's own connection was broken so far."""
        return sum(
            each.action == LOSES_HERS.name and each.step.actor == actor.name
            for each in self.schedule.disturbances
            if each not in self.played.missed
        )

    def _judge_outcome(self, bob: Receiver, sent: Sent, *, stayed: bool) -> None:
        raise NotImplementedError

    def say(self, violation: Violation) -> None:
        """Note what is seen beside; the first one counts."""
        self._problem = self._problem or violation

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def judge(self) -> None:
        """Nothing came twice."""
        for receiver in (self.bob, self.carol):
            for sent in receiver.sent:
                if not sent.is_in_doubt:
                    if max(sent.came) > 1:
                        text = f"{receiver.name} got {sent.id} {max(sent.came)} times"
                        raise Violation(text, self.repeats, sent.id)
                    self._judge_at_end(receiver, sent)

    def _judge_at_end(self, receiver: Receiver, sent: Sent) -> None:
        raise NotImplementedError

    # What may happen at each of a sender's steps

    async def bob_comes_or_goes(self, actor: Actor) -> None:
        """Come if he is away; go if he is there."""
        if self.bob.is_here:
            await self.bob.go()
            if self.comes_by_himself:
                self.background(self._comes_later())
        else:
            await self.bob.come()

    async def bob_s_connection_is_cut_for_a_while(self, actor: Actor) -> None:
        """Cut it, and keep him from coming back at once."""
        if self.bob.is_here:
            await self.bob.cut()
            self.background(self._comes_later())

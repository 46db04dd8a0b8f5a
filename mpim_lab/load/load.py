"""Load: heavy traffic from processes of its own, so that the caller's loop only watches.

A publisher process and a receiver process (`mpim_lab.load.redis`) do the work, on uvloop where
there is one. They count for themselves and write a line every tenth of a second, so that a notebook
can draw 100,000 messages a second as they go by. They end when they are done, when they are told
to, at their time limit, and when their parent dies.
"""

import asyncio
import math
import os
from dataclasses import dataclass, replace
from typing import Any

from mpim_lab.errors import InvalidParameter, LoadFailed
from mpim_lab.events import Event, EventKind
from mpim_lab.lab.exercise.experiment import running_loop
from mpim_lab.lab.trace.trace import RateSample, Trace
from mpim_lab.load.process import LoadProcess
from mpim_lab.load.redis.candidates import CANDIDATES
from mpim_lab.load.redis.plan import BOUNDS, LoadPlan

REPORT_EVERY_S = 0.1
LIVES_PER_S = 200
# What a closed loop may reach, to choose `sample_rate` before the speed is known.
FASTEST_PER_S = 200_000


@dataclass(frozen=True)
class LoadResult:
    """What a load run gave.

    Latencies run from the moment a message was due to its handler; None if none arrived.

    `messages_per_s` counts received messages between the first and the last receipt. The CPU
    seconds are those spent while messages went by, the memory is the most a process held in all;
    `ready_s` is how long it took the receiver to connect and subscribe.
    """

    who: str
    tasks: int
    offered_per_s: float | None
    payload_bytes: int
    sent: int
    received: int
    lost: int
    duplicates: int
    reordered: int
    seconds: float
    messages_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    publisher_rss_bytes: int
    receiver_rss_bytes: int
    publisher_cpu_s: float
    receiver_cpu_s: float
    channels: int = 1
    subscribers: int = 1
    ready_s: float = 0.0

    @property
    def deliveries_per_s(self) -> float:
        """Messages handed to subscribers a second, all of them together."""
        return self.messages_per_s * self.subscribers

    @property
    def kept_up(self) -> bool:
        """Whether an open loop sent what it was to send, to 2 %; a closed loop always does."""
        return self.offered_per_s is None or self.sent >= 0.98 * self.offered_per_s * self.seconds


class Load:
    """One load run going on: watch its trace, `stop` it, await its `result`."""

    def __init__(self, plan: LoadPlan, trace: Trace | None = None) -> None:
        self._plan, self._trace = plan, trace
        self._publisher: LoadProcess | None = None
        self._stopping = False
        self._task = running_loop().create_task(self._run())

    def stop(self) -> None:
        """Publish nothing more from now on; the result counts what was sent until here."""
        self._stopping = True
        if self._publisher is not None:
            self._publisher.tell("stop")

    async def result(self) -> LoadResult:
        """Wait for the end.

        Raises LoadFailed; when the waiting is cancelled, both processes are killed.
        """
        return await self._task

    @property
    def done(self) -> bool:
        """Whether the run has ended, well or not."""
        return self._task.done()

    async def _run(self) -> LoadResult:
        plan = self._plan
        try:
            async with (
                asyncio.timeout(plan.limit_s + 5.0),
                LoadProcess("receiver", plan, self._take) as receiver,
                LoadProcess("publisher", plan, self._take) as publisher,
            ):
                await asyncio.gather(receiver.ready, publisher.ready)
                self._publisher = publisher
                if self._stopping:
                    publisher.tell("stop")
                publisher.tell("go")
                await asyncio.wait(
                    {publisher.summary, receiver.summary}, return_when=asyncio.FIRST_COMPLETED
                )
                if receiver.summary.done():
                    await receiver.summary  # it failed: nothing can have told it to end
                sent = await publisher.summary
                receiver.tell({"expect": sent["sent"]})
                return _result(plan, sent, await receiver.summary)
        except TimeoutError as error:
            raise LoadFailed(
                f"the load of {plan.who} did not end within {plan.limit_s:g} s"
            ) from error
        finally:
            self._publisher = None

    def _take(self, actor: str, interval: dict[str, Any]) -> None:
        """Put one interval of one process into the trace."""
        trace = self._trace
        if trace is None:
            return
        lives = interval.pop("lives")
        trace.rates.append(RateSample(actor=actor, **interval))
        # Each process sees two events of a message.
        trace.dropped += 2 * interval["messages"] - len(lives)
        for sequence, kind, at, count in lives:
            # not trace(event): the sample was chosen where the messages are, to be whole on both
            # sides
            trace.events.append(
                Event(EventKind(kind), at, actor, f"m{sequence}", self._plan.channel, count=count)
            )


def start_load(
    url: str,
    who: str = "mpim_lab",
    *,
    tasks: int = 128,
    messages: int | None = None,
    offered_per_s: float | None = None,
    payload_bytes: int = 100,
    seconds: float | None = None,
    channels: int = 1,
    subscribers: int = 1,
    prefix: str = "",
    trace: Trace | None = None,
) -> Load:
    """Start a publisher and a receiver process against the server at `url`.

    `who` is one of CANDIDATES.

    Without `offered_per_s`, each of `tasks` tasks awaits one publish after another. With it,
    messages are due at that rate, and latencies count from the moment one was due; at most `tasks`
    are unanswered. Ends after `messages` messages or `seconds` seconds (default: one second). Each
    message goes to one of `channels`, by chance, or to all `subscribers` (connections). `prefix`
    goes before the name of every key and channel. A `trace` gets rates and about 200 whole lives a
    second. Raises InvalidParameter for numbers out of bounds, LoadFailed for a candidate that is
    not installed, or that would write outside of a `prefix`.
    """
    _check(who, channels, subscribers)
    if prefix and (elsewhere := CANDIDATES[who].elsewhere):
        raise LoadFailed(
            f"not run on your server: it would write {elsewhere}, outside of the run's prefix"
        )
    most_messages, most_seconds = int(BOUNDS["messages"][1]), 60.0
    channel = f"load:{os.urandom(4).hex()}"  # no two loads hear each other
    prefixes = CANDIDATES[who].prefixes
    plan = LoadPlan(
        url=url,
        who=who,
        channel=channel if prefixes else prefix + channel,
        prefix=prefix if prefixes else "",
        tasks=tasks,
        messages=messages if messages is not None else most_messages,
        seconds=seconds if seconds is not None else 1.0 if messages is None else most_seconds,
        offered_per_s=offered_per_s,
        payload_bytes=payload_bytes,
        channels=channels,
        subscribers=subscribers,
    )
    if trace is not None:
        trace.sample_rate = math.ceil((offered_per_s or FASTEST_PER_S) / LIVES_PER_S)
        plan = replace(plan, sample_rate=trace.sample_rate, report_every_s=REPORT_EVERY_S)
    return Load(plan, trace)


def _check(who: str, channels: int, subscribers: int) -> None:
    if who not in CANDIDATES:
        raise InvalidParameter(f"who={who!r}: must be one of {', '.join(CANDIDATES)}")
    if missing := CANDIDATES[who].missing:
        raise LoadFailed(missing)
    if channels * subscribers > 1 and (":" in who or min(channels, subscribers) > 1):
        raise InvalidParameter("either many channels or many subscribers, and of Pub/Sub alone")


async def measure(url: str, who: str = "mpim_lab", **options: Any) -> LoadResult:
    """Run one load to its end; options and errors as those of `start_load`."""
    return await start_load(url, who, **options).result()


def _result(plan: LoadPlan, sent: dict[str, Any], received: dict[str, Any]) -> LoadResult:
    seconds = received.pop("receiving_s")
    return LoadResult(
        who=plan.who,
        tasks=plan.tasks,
        offered_per_s=plan.offered_per_s,
        payload_bytes=plan.payload_bytes,
        channels=plan.channels,
        subscribers=plan.subscribers,
        sent=sent["sent"],
        seconds=sent["seconds"],
        messages_per_s=(received["received"] - 1) / seconds if seconds else 0.0,
        publisher_rss_bytes=sent["rss_bytes"],
        receiver_rss_bytes=received.pop("rss_bytes"),
        publisher_cpu_s=sent["cpu_s"],
        receiver_cpu_s=received.pop("cpu_s"),
        **received,
    )

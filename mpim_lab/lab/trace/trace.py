"""Trace: every event of a run, collected once; every picture, table and verdict reads it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from mpim_lab.events import Event, EventKind, Reporter

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RateSample:
    """What one load process counted in an interval of `seconds`; latencies in milliseconds."""

    at: float
    actor: str
    seconds: float
    messages: int
    p50_ms: float | None = None
    p99_ms: float | None = None


class Trace:
    """All events of a run, in memory; usable as an observer.

    Above `sample_above_per_s` it keeps one message in `sample_rate`: whole histories, chosen by
    message id. Events without a message (connections, faults) are always kept. What it does not
    keep it counts in `dropped`; its text says so.

    Args:
        sample_above_per_s: events a second, above which it samples; None: never, for a run that is
            judged by its trace.
        limit: how many events it holds; then it keeps the first ones.

    Examples:
        >>> trace = Trace()
        >>> trace(Event(EventKind.ACCEPTED, 0.0, "alice", "m1", "user:1001"))
        >>> trace
        Trace(1 event of 1 message by alice; complete)
    """

    def __init__(self, *, sample_above_per_s: int | None = 5_000, limit: int = 200_000) -> None:
        self.events: list[Event] = []
        self.rates: list[RateSample] = []
        self.sample_rate = 1
        self.dropped = 0
        self._limit = limit
        self._sample_above_per_s = sample_above_per_s
        self._second, self._in_second = 0.0, 0

    def __call__(self, event: Event) -> None:
        """Record one event.

        Args:
            event: what happened.
        """
        if event.at - self._second >= 1.0:
            self._second, self._in_second = event.at, 0
        self._in_second += 1
        if (
            self._sample_above_per_s is not None
            and self._in_second > self._sample_above_per_s * self.sample_rate
        ):
            self._halve_the_sample()
        if self._is_kept(event) and len(self.events) < self._limit:
            self.events.append(event)
        else:
            self.dropped += 1

    def _is_kept(self, event: Event) -> bool:
        return (
            self.sample_rate == 1
            or not event.message_id
            or crc32(event.message_id.encode()) % self.sample_rate == 0
        )

    def _halve_the_sample(self) -> None:
        self.sample_rate *= 2
        kept = [event for event in self.events if self._is_kept(event)]
        self.dropped += len(self.events) - len(kept)
        self.events = kept

    def record(
        self, kind: EventKind, actor: str, detail: str = "", *, error: BaseException | None = None
    ) -> None:
        """Record something that happened to no message, now: a fault, a connection, an error.

        Args:
            kind: what it is.
            actor: who it happened to, or "lab".
            detail: in words.
            error: what was raised, if it is an error.
        """
        Reporter(actor, self).system(kind, detail=detail, error=error)

    def by_kind(self, *kinds: EventKind) -> Iterator[Event]:
        """Select events by their kind.

        Args:
            *kinds: the kinds.

        Returns:
            The events, in the order they were recorded.
        """
        return (event for event in self.events if event.kind in kinds)

    def by_message(self) -> dict[str, list[Event]]:
        """Group the events by message.

        Returns:
            Message id → its events; messages in the order they were first seen.
        """
        histories: dict[str, list[Event]] = {}
        for event in self.events:
            if event.message_id:
                histories.setdefault(event.message_id, []).append(event)
        return histories

    def history(self, message_id: str) -> list[Event]:
        """Return one message's events, in an order that is the same in every run.

        Who sent it and who received it hear from the server at the same time, so the order in which
        their events were recorded is luck. Of each attempt the sender's events come first, then the
        others', then what follows from a confirmation. Of a message in a stream, all of the
        sender's attempts come first: a repeat and the work on the first copy go on side by side.

        Args:
            message_id: the message.

        Returns:
            Its events, causes before effects; none if it is not known.
        """
        events = self.by_message().get(message_id, [])
        senders = {
            event.actor for event in events if event.kind in (EventKind.ACCEPTED, EventKind.CHECKED)
        }
        if any(event.kind is EventKind.ADDED for event in events):
            return sorted(
                events,
                key=lambda event: event.actor not in senders or event.kind is EventKind.STALLED,
            )
        ordered: list[Event] = []
        own: list[Event] = []
        theirs: list[Event] = []
        for event in [*events, None]:
            if event is None or (
                event.kind is EventKind.ACCEPTED
                and any(one.kind is EventKind.ACCEPTED for one in own)
            ):
                kinds = [one.kind for one in own]
                cut = kinds.index(EventKind.CONFIRMED) if EventKind.CONFIRMED in kinds else len(own)
                ordered += [*own[:cut], *theirs, *own[cut:]]
                own, theirs = [], []
            if event is not None:
                (own if event.actor in senders else theirs).append(event)
        return ordered

    @property
    def started_at(self) -> float:
        """The time of the first event, in seconds of the monotonic clock; 0.0 if there is none."""
        return min((event.at for event in self.events), default=0.0)

    def to_pandas(self) -> "pd.DataFrame":
        """Make a table of all events.

        Returns:
            One row an event, in order; `at_ms` counts from the first event.
        """
        start = self.started_at
        columns = ["at_ms", "kind", "actor", "message_id", "channel", "detail", "count", "seconds"]
        rows = [
            asdict(event) | {"kind": str(event.kind), "at_ms": (event.at - start) * 1e3}
            for event in self.events
        ]
        import pandas as pd  # half a second, that a check's process need not spend

        return pd.DataFrame(rows, columns=columns)

    def to_json_lines(self, path: str | Path | None = None) -> str:
        """Write all events as JSON, one object a line.

        Args:
            path: a file to write it to as well.

        Returns:
            The text.
        """
        text = "".join(json.dumps(asdict(event)) + "\n" for event in self.events)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json_lines(cls, text: str) -> "Trace":
        """Read back what `to_json_lines` wrote.

        Args:
            text: its text.

        Returns:
            A trace with these events.
        """
        trace = cls()
        for line in text.splitlines():
            record = json.loads(line)
            trace.events.append(Event(**record | {"kind": EventKind(record["kind"])}))
        return trace

    def __len__(self) -> int:
        return len(self.events)

    def __repr__(self) -> str:
        histories = self.by_message()
        actors = _listed({event.actor for event in self.events if event.message_id})
        whole = (
            "complete"
            if not self.dropped
            else f"sampled, one message in {self.sample_rate}, {self.dropped} events dropped"
        )
        events, messages = _counted(len(self.events), "event"), _counted(len(histories), "message")
        return f"Trace({events} of {messages} by {actors or 'nobody'}; {whole})"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

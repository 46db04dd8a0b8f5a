"""Streams for schedules: add, groups, trim, delete a group; and the model.

Members are in `members.py`.

| an entry whose add was acknowledged ...       | then at rest, for each group that covers it  |
|-----------------------------------------------|----------------------------------------------|
| is still in the stream                        | it was handled, or is a dead letter          |
| is not                                        | somebody trimmed after it was added          |
| is older than a group made with `start="$"`   | the group never handled it                   |
| was there when its group was deleted          | nothing is said                              |
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import PartlyAdded
from mpim_lab.soak.api.world import CALL_S, LIMITS, Call, Outcome, QueueSlot, World, on

STREAMS = ("orders", "mails")
GROUPS = {"all": "0", "new": "$"}  # name → where it starts
BEHAVIOURS = ("ok",) * 7 + ("raise", "raise", "poison", "cancelled", "slow", "hang")


def id_key(id: str | bytes) -> tuple[int, int]:
    """Give what ids are compared by."""
    text = id.decode() if isinstance(id, bytes) else id
    ms, number = text.split("-")
    return int(ms), int(number)


@dataclass(eq=False)
class Group:
    """One group of one stream, as the model sees it. Ids are compared by `id_key`."""

    stream: "StreamModel"
    name: str
    is_made: bool = False
    tried_at: tuple[int, int] | None = None  # the last entry, as somebody first tried to make it
    not_up_to: tuple[int, int] = (0, 0)  # existed before the group was made at its end
    claims_above: tuple[int, int] = (0, 0)  # everything above must be handled
    was_deleted: bool = False
    handled: Counter[str] = field(default_factory=Counter)
    failed: Counter[bytes] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.stream.name}/{self.name}"

    def check_is_new(self, w: World, id: str) -> None:
        """Note a violation if an entry is older than the group."""
        if id_key(id) <= self.not_up_to:
            w.violate("old entry", f"{id} was there before {self} was made with start='$'")


@dataclass(eq=False)
class StreamModel:
    """One stream. `added`: id → payload, acknowledged. `refused`: certainly not added."""

    name: str
    added: dict[str, bytes] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)
    trimmed_up_to: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.groups = {name: Group(self, name) for name in GROUPS}


@dataclass
class Streams:
    """What the model knows."""

    all: dict[str, StreamModel] = field(
        default_factory=lambda: {name: StreamModel(name) for name in STREAMS}
    )

    def choose(self, rng: random.Random) -> StreamModel:
        """Return one of the streams."""
        return self.all[rng.choice(STREAMS)]

    def made(self) -> list[Group]:
        """Return the groups that are there."""
        groups = [group for model in self.all.values() for group in model.groups.values()]
        return [group for group in groups if group.is_made]


# Producing


@on(World.open_slots)
def add(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Add one entry, or many."""
    model, count = w.part(Streams).choose(rng), rng.choice((1, 1, 3, 8))
    payloads = [f"{w.next()}:{w.behaviour(rng, BEHAVIOURS)}".encode() for _ in range(count)]
    return add_to(w, slot, model, payloads)


def add_to(w: World, slot: QueueSlot, model: StreamModel, payloads: list[bytes]) -> Call:
    """Add these."""
    stream = slot.queue.stream(model.name)

    async def adding() -> list[str]:
        await still_deleted(w, model)
        if len(payloads) == 1:
            return [await stream.add(payloads[0])]
        ids: list[str] = await stream.add_many(payloads)
        return ids

    def done(outcome: Outcome) -> None:
        ids = outcome.value or [None] * len(payloads)
        errors: Sequence[BaseException | None] = [outcome.error] * len(payloads)
        if isinstance(outcome.error, PartlyAdded):
            ids, errors = outcome.error.ids, outcome.error.errors
        for payload, added, error in zip(payloads, ids, errors, strict=True):
            if added is not None:
                model.added[str(added)] = payload
            elif Outcome(error=error).is_definite:
                model.refused.add(payload)

    shown = " ".join(payload.decode() for payload in payloads)
    return Call(f"{slot.name}.stream({model.name!r}).add({shown})", adding(), CALL_S, done)


async def still_deleted(w: World, model: StreamModel) -> None:
    """Note which deleted groups are back: what was added before is not the group's."""
    for group in model.groups.values():
        if group.was_deleted and not w.fault:
            try:
                infos = await w.admin("XINFO", "GROUPS", w.prefix + model.name)
            except (OSError, EOFError):  # the server is killed just now: the next one asks again
                return
            names = [info[1] for info in infos] if isinstance(infos, list) else []
            if group.name.encode() in names:
                group.was_deleted = False
                group.claims_above = w.id_now()


@on(World.open_slots)
def join(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Make a group, or join it."""
    model = w.part(Streams).choose(rng)
    group = model.groups[rng.choice(list(GROUPS))]
    start = GROUPS[group.name]
    if group.tried_at is None:
        group.tried_at = max(map(id_key, model.added), default=(0, 0))

    def done(outcome: Outcome) -> None:
        is_first, group.is_made = not group.is_made, group.is_made or outcome.is_ok
        if start == "$" and (is_first or not outcome.is_ok):  # it may be there from now on
            group.claims_above = max(group.claims_above, w.id_now())
        if start == "$" and is_first and outcome.is_ok:
            group.not_up_to = group.tried_at or (0, 0)

    running = slot.queue.stream(model.name).group(group.name, start=start)
    return Call(f"{slot.name}: join {group}, start={start!r}", running, CALL_S, done)


# Forgetting


@on(World.open_slots)
def trim(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Trim a stream."""
    model, keep = w.part(Streams).choose(rng), rng.choice((0, 0, 1, 3))

    def done(outcome: Outcome) -> None:  # one that failed may yet be run
        model.trimmed_up_to = w.id_now(100 if outcome.is_ok else int(3e3 * LIMITS.timeout_s))

    running = slot.queue.stream(model.name).trim(max_entries=keep, exact=True)
    text = f"{slot.name}.stream({model.name!r}).trim(max_entries={keep})"
    return Call(text, running, CALL_S, done)


@on(lambda w: [] if w.fault else w.part(Streams).made())
def delete_group(w: World, rng: random.Random, group: Group) -> Call:
    """Have somebody delete a group."""

    def done(outcome: Outcome) -> None:
        group.was_deleted = True
        group.claims_above = w.id_now()

    running = w.admin("XGROUP", "DESTROY", w.prefix + group.stream.name, group.name)
    return Call(f"XGROUP DESTROY {group}", running, 5.0, done, ("wait",), is_judged=False)


def pairs(raw: list[Any]) -> dict[str, Any]:
    """Read a reply of names and values as a dict."""
    return {raw[n].decode(): raw[n + 1] for n in range(0, len(raw), 2)}


STREAM_ACTIONS = {
    "add": (add, 10),
    "join": (join, 4),
    "trim": (trim, 2),
    "delete_group": (delete_group, 1),
}

"""Streams for schedules: add, groups, trim, delete a group; and the model.

Members are in api_members.

| an entry whose add was acknowledged ...       | then at rest, for each group that covers it                        |
|-----------------------------------------------|--------------------------------------------------------------------|
| is still in the stream                        | it was handled, or is a dead letter                                |
| is not                                        | somebody trimmed after it was added                                |
| is older than a group made with `start="$"`   | the group never handled it                                         |
| was there when its group was deleted          | nothing is said                                                    |
"""

import asyncio
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import PartlyAdded
from mpim_lab.soak.api.world import (
    CALL_S,
    LIMITS,
    Actor,
    Call,
    Outcome,
    QueueSlot,
    World,
    pick,
)

STREAMS = ("orders", "mails")
GROUPS = {"all": "0", "new": "$"}  # name → where it starts
BEHAVIOURS = ("ok",) * 7 + ("raise", "raise", "poison", "cancelled", "slow", "hang")
FETCH_MS = 50


def id_key(id: str) -> tuple[int, int]:
    """Ids in order."""
    ms, number = id.split("-")
    return int(ms), int(number)


@dataclass
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


@dataclass
class StreamModel:
    """One stream. `added`: id → payload, acknowledged. `refused`: certainly not added."""

    name: str
    added: dict[str, bytes] = field(default_factory=dict)
    refused: set[bytes] = field(default_factory=set)
    trimmed_up_to: tuple[int, int] = (0, 0)
    groups: dict[str, Group] = field(default_factory=dict)

    @property
    def last(self) -> tuple[int, int]:
        """The highest id that is known."""
        return max(map(id_key, self.added), default=(0, 0))


@dataclass
class Member:
    """A worker, or a consumer that is led by hand. `state`: running, ending, ended."""

    kind: str
    name: str
    group: Group
    slot: QueueSlot
    life: int
    part: Any
    task: "asyncio.Task[Any] | None" = None
    actor: Actor | None = None
    held: list[Any] = field(default_factory=list)
    state: str = "running"
    faults: int = 0  # that there had been when it began
    ended_at: float = math.inf
    left_well: bool = False  # it left in good order, and never met a fault


@dataclass
class Streams:
    """What the model knows."""

    streams: dict[str, StreamModel] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    begun: Counter[tuple[str, str, str]] = field(
        default_factory=Counter
    )  # starts by stream, group, name

    def running(self, kind: str) -> list[Member]:
        """Members that nobody has asked to leave."""
        return [each for each in self.members if each.kind == kind and each.state == "running"]


def part_of(w: World) -> Streams:
    """What the model knows."""

    def make() -> Streams:
        models = {name: StreamModel(name) for name in STREAMS}
        for model in models.values():
            model.groups = {name: Group(model, name) for name in GROUPS}
        return Streams(models)

    part: Streams = w.part("streams", make)
    return part


# Producing


def add(w: World, rng: random.Random) -> Call | None:
    """Add one entry, or many."""
    slot, model = pick(rng, w.open_slots()), part_of(w).streams[rng.choice(STREAMS)]
    if slot is None:
        return None
    payloads = [
        f"{w.next()}:{w.behaviour(rng, BEHAVIOURS)}".encode()
        for _ in range(rng.choice((1, 1, 3, 8)))
    ]
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
        if outcome.is_ok:
            model.added.update(zip(outcome.value, payloads, strict=True))
        elif isinstance(outcome.error, PartlyAdded):
            for payload, added, error in zip(
                payloads, outcome.error.ids, outcome.error.errors, strict=True
            ):
                if added is not None:
                    model.added[str(added)] = payload
                elif error is not None and error.definite:
                    model.refused.add(payload)
        elif outcome.is_definite:
            model.refused.update(payloads)

    shown = " ".join(payload.decode() for payload in payloads)
    return Call(f"{slot.name}.stream({model.name!r}).add({shown})", adding(), CALL_S, done)


async def still_deleted(w: World, model: StreamModel) -> None:
    """What is added while a deleted group is not back is not the group's."""
    for group in model.groups.values():
        if group.was_deleted and not w.fault:
            try:
                infos = await w.admin("XINFO", "GROUPS", w.prefix + model.name)
            except (
                OSError,
                EOFError,
            ):  # the server is killed just now: whoever comes next asks again
                return
            there = isinstance(infos, list) and any(
                info[1] == group.name.encode() for info in infos
            )
            group.was_deleted = not there
            group.claims_above = (w.now_ms() + 1, 0) if there else group.claims_above


def join(w: World, rng: random.Random) -> Call | None:
    """Make a group, or join it."""
    slot, model = pick(rng, w.open_slots()), part_of(w).streams[rng.choice(STREAMS)]
    group = model.groups[rng.choice(list(GROUPS))]
    if slot is None:
        return None
    group.tried_at = model.last if group.tried_at is None else group.tried_at

    def done(outcome: Outcome) -> None:
        if outcome.is_ok and not group.is_made:
            group.is_made = True
            if GROUPS[group.name] == "$":
                group.not_up_to = group.tried_at or (0, 0)
                group.claims_above = max(group.claims_above, (w.now_ms() + 1, 0))
        elif not outcome.is_ok and GROUPS[group.name] == "$":  # it may be there from now on
            group.claims_above = max(group.claims_above, (w.now_ms() + 1, 0))

    running = slot.queue.stream(model.name).group(group.name, start=GROUPS[group.name])
    text = f"{slot.name}.stream({model.name!r}).group({group.name!r}, start={GROUPS[group.name]!r})"
    return Call(text, running, CALL_S, done)


# Forgetting


def trim(w: World, rng: random.Random) -> Call | None:
    """Trim a stream."""
    slot, model = pick(rng, w.open_slots()), part_of(w).streams[rng.choice(STREAMS)]
    if slot is None:
        return None
    keep = rng.choice((0, 0, 1, 3))

    def done(outcome: Outcome) -> None:
        later_s = 0.1 if outcome.is_ok else 3 * LIMITS.timeout_s  # it may yet be run
        model.trimmed_up_to = (w.now_ms() + int(later_s * 1e3), 0)

    running = slot.queue.stream(model.name).trim(max_entries=keep, exact=True)
    return Call(
        f"{slot.name}.stream({model.name!r}).trim(max_entries={keep})", running, CALL_S, done
    )


def delete_group(w: World, rng: random.Random) -> Call | None:
    """Somebody deletes a group."""
    model = part_of(w).streams[rng.choice(STREAMS)]
    group = pick(rng, [each for each in model.groups.values() if each.is_made])
    if group is None or w.fault:
        return None

    def done(outcome: Outcome) -> None:
        group.was_deleted = True
        group.claims_above = (w.now_ms() + 1, 0)

    running = w.admin("XGROUP", "DESTROY", w.prefix + model.name, group.name)
    return Call(
        f"XGROUP DESTROY {model.name} {group.name}",
        running,
        5.0,
        done,
        modes=("wait",),
        is_judged=False,
    )


STREAM_ACTIONS = {
    "add": (add, 10),
    "join": (join, 4),
    "trim": (trim, 2),
    "delete_group": (delete_group, 1),
}

"""Schedule: a list of steps over the public API, chosen by one seed.

And how a failing one is made short.

A step is an action's name and a number. The number decides everything else: which object, which
payload, whether the call is awaited, cancelled after so many loop iterations, or left running while
the next steps begin. An action whose precondition does not hold is passed over. So any part of a
schedule is a schedule too, and it can be shrunk by leaving steps out. Source: Zeller and
Hildebrandt, "Simplifying and isolating failure-inducing input", 2002 (delta debugging).
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from mpim_lab.errors import InvalidParameter

MODES = ("wait", "cancel", "aside")
_SHARES = (70, 15, 15)
_AREAS_AT_ONCE = (1, 1, 2, 2, 3)


class Step(NamedTuple):
    """One step: `publish:4711`, `publish:4711:cancel` or `publish:4711:aside`."""

    action: str
    number: int
    mode: str = "wait"

    def __str__(self) -> str:
        return f"{self.action}:{self.number}" + ("" if self.mode == "wait" else f":{self.mode}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` writes.

        >>> Step.parse("publish:4711:cancel")
        Step(action='publish', number=4711, mode='cancel')
        """
        action, _, rest = text.partition(":")
        number, _, mode = rest.partition(":")
        if not number.isdecimal() or mode not in ("", *MODES):
            raise InvalidParameter(
                f"{text!r} is no step: write ACTION:NUMBER, or ACTION:NUMBER:MODE with {MODES}"
            )
        return cls(action, int(number), mode or "wait")


def schedule_of(seed: int, steps: int, areas: Mapping[str, Mapping[str, int]]) -> list[Step]:
    """Choose `steps` steps from some of the areas (area → action → weight).

    "faults" are mixed into most schedules.

    >>> areas = {"pubsub": {"publish": 3, "subscribe": 1}, "faults": {"kill": 1}}
    >>> schedule_of(7, 40, areas) == schedule_of(7, 40, areas)
    True
    """
    rng = random.Random(f"api {seed}")
    names = sorted(areas.keys() - {"faults"})
    chosen = rng.sample(names, min(len(names), rng.choice(_AREAS_AT_ONCE)))
    actions = {action: weight for area in chosen for action, weight in areas[area].items()}
    share = rng.choice((0.0, 0.06, 0.12, 0.2))
    if "faults" in areas and (share or not actions):
        faults, total = areas["faults"], sum(actions.values()) or 1
        per_weight = max(share, 0.01) * total / sum(faults.values())
        weighted = {**actions, **{name: weight * per_weight for name, weight in faults.items()}}
    else:
        weighted = dict(actions)
    picked = rng.choices(list(weighted), list(weighted.values()), k=steps)
    # neither cancelled nor left running: what fails here is easiest to understand
    calm = rng.random() < 0.3
    modes = ["wait"] * steps if calm else rng.choices(MODES, _SHARES, k=steps)
    return [
        Step(action, rng.randrange(10_000), mode)
        for action, mode in zip(picked, modes, strict=True)
    ]


def shrunk(
    steps: Sequence[Step], fails: Callable[[list[Step]], bool], budget: int = 80
) -> list[Step]:
    """Leave out what a failure does not need, and simplify the rest, in at most `budget` runs.

    fails: whether a shorter schedule fails in the same way.
    """
    runs = 0

    def still_fails(candidate: list[Step]) -> bool:
        nonlocal runs
        runs += 1
        return runs <= budget and fails(candidate)

    steps, parts = list(steps), 2
    while len(steps) > 1 and runs < budget:
        size = -(-len(steps) // parts)
        for first in range(0, len(steps), size):
            without = steps[:first] + steps[first + size :]
            if still_fails(without):
                steps, parts = without, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(len(steps), parts * 2)
    for place, step in enumerate(steps):
        if step.mode != "wait":
            simpler = [*steps[:place], step._replace(mode="wait"), *steps[place + 1 :]]
            if still_fails(simpler):
                steps = simpler
    return steps


def parse_steps(texts: Iterable[str]) -> list[Step]:
    """Read steps as they are printed, one a word."""
    return [Step.parse(text) for text in texts]

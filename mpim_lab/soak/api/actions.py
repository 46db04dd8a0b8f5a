"""Actions: the table of all steps, area by area, with their weights."""

import random
from collections.abc import Callable, Collection, Mapping

from mpim_lab.errors import InvalidParameter
from mpim_lab.soak.api.faults import FAULT_ACTIONS
from mpim_lab.soak.api.listeners import LISTEN_ACTIONS
from mpim_lab.soak.api.members import MEMBER_ACTIONS
from mpim_lab.soak.api.pubsub import PUBSUB_ACTIONS
from mpim_lab.soak.api.senders import BATCH_ACTIONS, POOL_ACTIONS
from mpim_lab.soak.api.streams import STREAM_ACTIONS
from mpim_lab.soak.api.work import ONCE_ACTIONS, ORDERED_ACTIONS
from mpim_lab.soak.api.world import Call, World

Action = Callable[[World, random.Random], Call | None]
_COMMON = {name: PUBSUB_ACTIONS[name] for name in ("close", "open")} | {
    "release": FAULT_ACTIONS["release"]
}
TABLE: dict[str, Mapping[str, tuple[Action, int]]] = {
    "pubsub": {**PUBSUB_ACTIONS, **LISTEN_ACTIONS, **_COMMON},
    "streams": {**STREAM_ACTIONS, **MEMBER_ACTIONS, **_COMMON},
    "once": {**ONCE_ACTIONS, **_COMMON},
    "ordered": {**ORDERED_ACTIONS, **_COMMON},
    "batch": {**BATCH_ACTIONS, **_COMMON},
    "pool": POOL_ACTIONS,
    "faults": FAULT_ACTIONS,
}
ACTIONS = {name: action for area in TABLE.values() for name, (action, _) in area.items()}


def weights(only: Collection[str] = (), without: Collection[str] = ()) -> dict[str, dict[str, int]]:
    """Area → action → weight, of some areas and actions.

    Named in `only` (all, if empty) and not in `without`.
    """
    if unknown := set(only) - TABLE.keys() - ACTIONS.keys():
        raise InvalidParameter(f"no area and no action: {', '.join(sorted(unknown))}")
    chosen = {}
    for area, actions in TABLE.items():
        if area in without:
            continue
        is_in = not only or area in only
        left = {
            name: weight
            for name, (_, weight) in actions.items()
            if (is_in or name in only) and name not in without
        }
        if left:
            chosen[area] = left
    return chosen

"""Actions: the table of all steps, area by area, with their weights."""

from collections.abc import Collection, Mapping

from mpim_lab.errors import InvalidParameter
from mpim_lab.soak.api.effects import ONCE_ACTIONS, ORDERED_ACTIONS
from mpim_lab.soak.api.faults import FAULT_ACTIONS
from mpim_lab.soak.api.listeners import LISTEN_ACTIONS
from mpim_lab.soak.api.members import MEMBER_ACTIONS
from mpim_lab.soak.api.pubsub import PUBSUB_ACTIONS
from mpim_lab.soak.api.senders import BATCH_ACTIONS, POOL_ACTIONS
from mpim_lab.soak.api.streams import STREAM_ACTIONS
from mpim_lab.soak.api.world import Action

_COMMON = {name: (PUBSUB_ACTIONS | FAULT_ACTIONS)[name] for name in ("close", "open", "release")}
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
    """Return area → action → weight: of what is in `only` (all, if empty) and not in `without`."""
    if unknown := set(only) - TABLE.keys() - ACTIONS.keys():
        raise InvalidParameter(f"no area and no action: {', '.join(sorted(unknown))}")
    chosen = {
        area: {
            name: weight
            for name, (_, weight) in actions.items()
            if (not only or {area, name} & set(only)) and not {area, name} & set(without)
        }
        for area, actions in TABLE.items()
    }
    return {area: actions for area, actions in chosen.items() if actions}

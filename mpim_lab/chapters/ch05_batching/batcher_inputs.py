"""Chapter 5: what a learner's batcher is tried with.

An input is a list of batchers, each `(max_messages, window_s, operations, sends)`:

| operation                     | what happens at that time (in seconds)              |
|-------------------------------|-----------------------------------------------------|
| `(at_s, "add")`               | a task calls `add` with a payload of its own        |
| `(at_s, "empty")`, `"long"`   | the same: an empty payload, one of 20,000 bytes     |
| `(at_s, "same")`              | the same: the payload of the message before it      |
| `(at_s, "cancel the oldest")` | the first task in `add` is cancelled; also `newest` |
| `(at_s, "close")`             | `close` is called; else after all windows are over  |

`sends` says how the calls of `send` end, in their order: `(takes_s, how)`. `how` is "ok", the name
of an error, "arrived, ConnectionLost" (its reply is lost), or "line is down": NotConnected for all
calls of the next `takes_s` seconds. The calls after those are "ok" at once.
"""

from typing import Any

from hypothesis import strategies as st

from mpim_lab.chapters.ch05_batching.batcher_rules import ERRORS, RETRIED

Operation = tuple[Any, ...]
GAPS = (0.0, 0.0, 0.0, 0.1, 0.37, 0.7, 1.3, 3.0)  # between two operations, in windows
TAKES = (0.0, 0.0, 0.001, 0.04, 0.4, 1.5, 4.0)  # of a call of `send`, in windows
DOWN_S = (0.01, 0.3, 1.2, 8.0, 40.0)
ADDS = ("add", "add", "add", "add", "same", "empty", "long")
CANCELS = ("cancel the oldest", "cancel the newest")


def batchers(*, can_fail: bool) -> st.SearchStrategy[list[Any]]:
    """Return a strategy for inputs: one batcher, or two at the same time."""
    kinds = ADDS + CANCELS if can_fail else ADDS
    operations = st.lists(st.tuples(st.sampled_from(GAPS), st.sampled_from(kinds)), max_size=10)
    ends: st.SearchStrategy[Any] = st.tuples(st.sampled_from(TAKES), st.just("ok"))
    if can_fail:
        hows = ("ok", *(each for each in ERRORS if each != "line is down"))
        down = st.tuples(st.sampled_from(DOWN_S), st.just("line is down"))
        ends = ends | st.tuples(st.sampled_from(TAKES), st.sampled_from(hows)) | down
    one = st.builds(
        _batcher,
        st.sampled_from((1, 2, 3, 4, 100)),
        st.sampled_from((0.2, 1.0, 60.0)),
        operations,
        st.sampled_from((None, *GAPS)),
        st.lists(ends, max_size=6),
    )
    return st.lists(one, min_size=1, max_size=1) | st.lists(one, min_size=2, max_size=2)


def _batcher(
    max_messages: int,
    window_s: float,
    gaps: list[tuple[float, str]],
    close: float | None,
    sends: list[tuple[float, str]],
) -> tuple[Any, ...]:
    """Give operations their times, and leave out what a judge could not tell apart."""
    at_s, operations = 0.0, list[Operation]()
    cancels = any(what in CANCELS for _, what in gaps)
    for gap, what in [*gaps, *([] if close is None else [(close, "close")])]:
        at_s = round(at_s + gap * window_s, 3)
        operations.append((at_s, "add" if cancels and what in ("same", "empty") else what))
    timed = [
        (takes if how == "line is down" else round(takes * window_s, 3), how)
        for takes, how in sends
    ]
    return max_messages, window_s, operations, timed


CLOSING = [
    [(2, 1.0, [(0.0, "add"), (0.0, "add")], [])],
    [(4, 1.0, [(0.0, "add")], [])],
    [(4, 60.0, [(0.0, "add"), (0.5, "close")], [])],
    [(2, 1.0, [(0.0, "add")] * 5, [])],
    [(4, 1.0, [(0.0, "add")] * 4 + [(0.4, "add")], [])],
    [(100, 1.0, [(n / 4 + 0.1, "add") for n in range(8)], [])],
    [(1, 60.0, [(0.0, "add")] * 3, [])],
    [(2, 1.0, [(0.0, "close")], [])],
    [(4, 1.0, [(0.0, "add")] * 4 + [(0.1, "close")], [(2.0, "ok")])],
    [(4, 1.0, [(0.0, "add"), (1.5, "close")], [(4.0, "ok")])],
    [(4, 1.0, [(0.0, "add")] * 4 + [(0.1, "add")] * 2, [(0.5, "ok")])],
    [(2, 1.0, [(0.0, "add"), (1.5, "add"), (1.6, "add")], [(4.0, "ok")])],
    [(3, 1.0, [(0.0, "add"), (0.0, "same"), (0.0, "empty"), (0.1, "empty")], [])],
    [(2, 1.0, [(0.0, "add")], []), (3, 1.0, [(0.1, "add")] * 2, [])],
    [(4, 60.0, [(0.0, "add"), (30.0, "close")], [])],
]
FAILING = [
    [(2, 1.0, [(0.0, "add")] * 2, [(0.0, "line is down"), (0.0, "ok")])],
    [(2, 1.0, [(0.0, "add")] * 2, [(0.1, "QueueFull")] * 3)],
    [(2, 1.0, [(0.0, "add")] * 6, [(0.0, "ok"), (0.1, "QueueFull")])],
    [(2, 1.0, [(0.0, "add")] * 2, [(40.0, "line is down")])],
    [(2, 1.0, [(0.0, "add"), (0.1, "close")], [(0.4, "line is down")])],
    [(2, 1.0, [(0.0, "add")], [(0.0, "NotConnected")])],
    [(2, 1.0, [(0.0, "add"), (0.1, "close")], [(40.0, "line is down")])],
    *([(2, 1.0, [(0.0, "add")] * 4, [(0.01, how)])] for how in ERRORS if how not in RETRIED),
    [(4, 1.0, [(0.0, "add"), (0.0, "add"), (0.1, "cancel the oldest")], [])],
    [(2, 1.0, [(0.0, "add")] * 4 + [(0.1, "cancel the oldest")], [(0.5, "ok")])],
    [(2, 1.0, [(0.0, "add")] * 4 + [(0.1, "cancel the newest")], [(0.5, "InvalidMessage")])],
]

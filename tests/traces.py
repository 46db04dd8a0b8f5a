"""Traces made by hand, for tests of what is drawn from them: alice sends to bob, who listens on `user:1`."""

from dataclasses import replace

from mpim_lab.events import Event, EventKind
from mpim_lab.keys import ack_channel, user_channel
from mpim_lab.lab.trace.trace import Trace

CHANNEL, CONFIRM = user_channel("1"), ack_channel("1")
BOB_LISTENS = Event(EventKind.SUBSCRIBED, 0.0, "bob", channel=CHANNEL)


def by_alice(message, kind, **more):
    """One event of alice's."""
    return Event(kind, 0.0, "alice", message, **{"channel": CHANNEL} | more)


def by_bob(message, *kinds, **more):
    """Events of bob's."""
    return [Event(kind, 0.0, "bob", message, **{"channel": CHANNEL} | more) for kind in kinds]


def sent(message, receivers=1):
    """One attempt: alice publishes, the server says how many it handed the message to."""
    return [
        by_alice(message, EventKind.ACCEPTED),
        by_alice(message, EventKind.PUBLISHED, count=receivers),
    ]


def told(message, what="delivered"):
    """What alice is told."""
    return [by_alice(message, EventKind.OUTCOME, outcome=what)]


def handled(message):
    """It arrives at bob, and he handles it."""
    return by_bob(message, EventKind.RECEIVED, EventKind.HANDLED)


def delivered(message):
    """A whole life that ends well."""
    return [*sent(message), *handled(message), *told(message)]


def lost(message):
    """Nobody was there, and alice was told otherwise."""
    return [*sent(message, receivers=0), *told(message)]


def duplicated(message):
    """Repeated, and handled twice."""
    return [*sent(message), *handled(message), *sent(message), *handled(message), *told(message)]


def fault(kind, *during):
    """What happens while a fault lasts."""
    return [
        Event(EventKind.FAULT_BEGAN, 0.0, "lab", detail=kind),
        *during,
        Event(EventKind.FAULT_ENDED, 0.0, "lab", detail=kind),
    ]


def trace_of(*events, every_s=0.001, **options):
    """A trace of these events, one every `every_s` seconds."""
    trace = Trace(**options)
    return fill(trace, *events, every_s=every_s)


def fill(trace, *events, every_s=0.001):
    """Add events to a trace, at the times that follow."""
    begin = trace.events[-1].at + every_s if trace.events else 0.0
    for index, event in enumerate(events):
        trace(replace(event, at=begin + index * every_s))
    return trace

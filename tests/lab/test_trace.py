"""The trace: every event, once, in order; sampled above a rate, and honest about it."""

from mpim_lab.events import Event, EventKind
from mpim_lab.lab.trace.trace import Trace


def events(
    messages,
    per_message=(EventKind.ACCEPTED, EventKind.PUBLISHED, EventKind.RECEIVED, EventKind.HANDLED),
    every_s=0.001,
):
    """Whole lives of messages, one after the other."""
    at = 0.0
    for number in range(messages):
        for kind in per_message:
            yield Event(kind, at, "alice", f"m{number}", "user:1")
        at += every_s


def filled(trace, source):
    for event in source:
        trace(event)
    return trace


def test_a_trace_survives_json_lines():
    """to_json_lines and from_json_lines are inverse.

    Chinese, what some take for the end of a line, half a character.
    """
    trace = filled(Trace(), events(3))
    for detail in ("断线", "a\u2028b\x85c\x1cd\ne\r", "no file '\udcff'"):
        trace.record(EventKind.FAULT_BEGAN, "lab", detail)
    assert Trace.from_json_lines(trace.to_json_lines()).events == trace.events


def test_json_lines_are_written_to_a_file_on_request(tmp_path):
    """The text is given in any case."""
    path = tmp_path / "trace.jsonl"
    assert filled(Trace(), events(1)).to_json_lines(path) == path.read_text(encoding="utf-8")


def test_a_table_counts_milliseconds_from_the_first_event():
    """One row an event; the columns are the same for an empty trace."""
    frame = filled(Trace(), events(3)).to_pandas()
    assert list(frame["at_ms"].round(6).unique()) == [0.0, 1.0, 2.0]
    assert list(Trace().to_pandas().columns) == list(frame.columns)


def test_above_its_rate_a_trace_keeps_whole_lives_of_some_messages_and_says_so():
    """Either all events of a message are there or none, and what is missing is counted."""
    trace = filled(Trace(sample_above_per_s=400), events(2_000, every_s=0.0005))
    assert trace.sample_rate > 1
    assert all(len(life) == 4 for life in trace.by_message().values())
    assert len(trace) + trace.dropped == 8_000
    assert f"one message in {trace.sample_rate}" in repr(trace)


def test_below_its_rate_a_trace_keeps_everything():
    """The rate is per second, not in all."""
    trace = filled(Trace(sample_above_per_s=400), events(2_000, every_s=0.011))
    assert (trace.sample_rate, len(trace)) == (1, 8_000)


def test_events_without_a_message_are_never_sampled_away():
    """Faults and lost connections are what one looks for."""
    trace = Trace(sample_above_per_s=10)
    filled(trace, events(100, every_s=0.0001))
    trace(Event(EventKind.DISCONNECTED, 0.01, "bob", detail="cut"))
    assert [event.detail for event in trace.by_kind(EventKind.DISCONNECTED)] == ["cut"]


def test_a_trace_is_bounded():
    """Beyond its limit it keeps the first events and counts the others."""
    trace = filled(Trace(limit=10), events(5))
    assert (len(trace), trace.dropped) == (10, 10)
    assert "10 events dropped" in repr(trace)


def test_a_life_is_told_in_one_order_whoever_heard_first():
    """The sender's answer and the receiver's message leave the server together.

    Which is recorded first is luck.
    """
    accepted = Event(EventKind.ACCEPTED, 0.0, "alice", "m1", "user:1001")
    published = Event(EventKind.PUBLISHED, 0.2, "alice", "m1", "user:1001", count=1)
    received = Event(EventKind.RECEIVED, 0.1, "bob", "m1", "user:1001")
    handled = Event(EventKind.HANDLED, 0.3, "bob", "m1", "user:1001")
    confirmed = Event(EventKind.CONFIRMED, 0.4, "alice", "m1", "user:1001")
    for heard in (
        [published, received, handled],
        [received, published, handled],
        [received, handled, published],
    ):
        trace = Trace()
        for event in [accepted, *heard, confirmed, accepted, *heard]:
            trace(event)
        told = [
            accepted,
            published,
            received,
            handled,
            confirmed,
            accepted,
            published,
            received,
            handled,
        ]
        assert trace.history("m1") == told

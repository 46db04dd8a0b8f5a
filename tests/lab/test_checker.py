"""The checker: from what was sent and what arrived to a verdict."""

from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.events import Event, EventKind
from mpim_lab.lab.trace.checker import check, check_effects, check_trace
from mpim_lab.lab.trace.trace import Trace

IDS = [f"m{number}" for number in range(1, 9)]


def test_everything_once_and_in_order_is_exactly_once_in_this_run():
    """A run proves no guarantee, and the verdict does not claim one."""
    verdict = check(IDS, IDS)
    assert verdict.semantics == "exactly once in this run, in order"
    assert (verdict.sent, verdict.delivered) == (8, 8)


def test_a_missing_message_is_lost_and_its_sender_may_have_been_told_otherwise():
    """Lost is what nobody handled.

    Silently lost is what was acknowledged to its sender all the same.
    """
    verdict = check(["m1", "m2", "m3"], ["m1"], acknowledged=["m1", "m2"])
    assert verdict.lost == ("m2", "m3")
    assert verdict.silently_lost == ("m2",)
    assert verdict.semantics == "at most once, in order"


def test_a_duplicate_is_not_also_a_reordering():
    """A redelivery that comes late does not make its message reordered.

    The first delivery counts.
    """
    verdict = check(["m1", "m2"], ["m1", "m2", "m1"])
    assert verdict.duplicated == ("m1",)
    assert verdict.reordered == ()
    assert verdict.semantics == "at least once, in order"


def test_a_message_that_arrives_after_a_later_one_is_reordered():
    """The late one is named, not the early one."""
    assert check(["m1", "m2", "m3"], ["m2", "m1", "m3"]).reordered == ("m1",)


def test_nothing_sent_is_no_reason_to_fail():
    """An empty run has an empty verdict."""
    assert check([], []).sent == 0


@given(st.lists(st.sampled_from(IDS), max_size=30))
def test_every_message_is_accounted_for(handled):
    """sent = delivered + lost.

    Duplicates and late ones are among the delivered; equal inputs give equal verdicts.
    """
    verdict = check(IDS, handled)
    assert verdict.sent == verdict.delivered + len(verdict.lost)
    assert set(verdict.lost) == set(IDS) - set(handled)
    assert set(verdict.duplicated) == {message for message in handled if handled.count(message) > 1}
    assert not set(verdict.lost) & (set(verdict.duplicated) | set(verdict.reordered))
    assert verdict == check(IDS, list(handled))


@given(st.permutations(IDS))
def test_in_order_means_exactly_the_order_of_sending(handled):
    """For a permutation, "in order" holds only for the identity."""
    assert (check(IDS, handled).reordered == ()) == (handled == IDS)


def test_the_text_of_a_verdict_names_the_messages():
    """What a learner reads: counts, ids, and the semantics in words."""
    text = str(check(["m1", "m2"], ["m1"], ["m2"]))
    assert "lost 1  (m2)" in text
    assert 'acknowledged "delivered" but lost 1  (m2)' in text
    assert "at most once" in text


def test_many_ids_are_shortened():
    """A thousand lost messages do not fill the page."""
    assert "…" in str(check([f"m{number}" for number in range(1_000)], []))


def test_a_trace_is_judged_for_one_receiver_and_one_channel():
    """What others handled, and what travelled on other channels (confirmations), does not count."""
    trace = Trace()
    for kind, actor, message, channel in [
        (EventKind.ACCEPTED, "alice", "m1", "user:1"),
        (EventKind.HANDLED, "carol", "m1", "user:1"),
        (EventKind.ACCEPTED, "alice", "m2", "user:1"),
        (EventKind.HANDLED, "bob", "m2", "user:1"),
        (EventKind.ACCEPTED, "bob", "m2", "confirm:1"),
        (EventKind.HANDLED, "alice", "m2", "confirm:1"),
    ]:
        trace(Event(kind, 0.0, actor, message, channel))
    verdict = check_trace(trace, "bob", "user:1")
    assert (verdict.sent, verdict.lost, verdict.duplicated) == (2, ("m1",), ())


def test_what_is_stalled_or_dead_lettered_is_not_lost():
    """Somebody can still do it, or has seen that nobody can.

    With either, not everything is done.
    """
    verdict = check(["m1", "m2", "m3"], ["m1"], stalled=["m2"], dead_lettered=["m3"])
    assert (verdict.lost, verdict.stalled, verdict.dead_lettered) == ((), ("m2",), ("m3",))
    assert (verdict.sent, verdict.delivered) == (3, 1)
    assert "exactly once" not in verdict.semantics


def test_what_was_done_is_neither_stalled_nor_dead():
    """It may be pending all the same: its worker died before it could say so."""
    assert check(["m1"], ["m1"], stalled=["m1"], dead_lettered=["m1"]) == check(["m1"], ["m1"])


def test_a_dead_letter_is_not_stalled_as_well():
    """Given up is the last word."""
    verdict = check(["m1"], [], stalled=["m1"], dead_lettered=["m1"])
    assert (verdict.stalled, verdict.dead_lettered) == ((), ("m1",))


def test_the_text_tells_of_stalled_and_dead_only_where_there_are_some():
    """And of the acknowledgement that was wrong, in its own word."""
    text = str(
        check(
            ["m1", "m2", "m3"],
            [],
            ["m1"],
            stalled=["m2"],
            dead_lettered=["m3"],
            acknowledgement="added",
        )
    )
    assert 'acknowledged "added" but lost 1  (m1)' in text
    assert "stalled" in text and "(m2)" in text
    assert "dead letters 1  (m3)" in text
    assert not {"stalled", "dead_lettered"} & set(str(check(["m1"], ["m1"])).split())


SOME = st.lists(st.sampled_from(IDS), max_size=12)


@given(SOME, SOME, SOME, SOME)
def test_every_message_has_one_end(handled, stalled, dead_lettered, acknowledged):
    """Delivered, lost, stalled or dead-lettered, and never two of them.

    Silently lost is part of lost.
    """
    verdict = check(IDS, handled, acknowledged, stalled=stalled, dead_lettered=dead_lettered)
    ends = [*dict.fromkeys(handled), *verdict.lost, *verdict.stalled, *verdict.dead_lettered]
    assert sorted(ends) == IDS
    assert set(verdict.silently_lost) == set(verdict.lost) & set(acknowledged)
    assert set(verdict.stalled) <= set(stalled) and set(verdict.dead_lettered) <= set(dead_lettered)


def test_effects_are_judged_whoever_had_them():
    """Handled is not done: the effect counts.

    Other streams do not; a repeat of adding is one message.
    """
    trace = Trace()
    for kind, actor, message, channel in [
        (EventKind.ACCEPTED, "alice", "m1", "orders"),
        (EventKind.ACCEPTED, "alice", "m1", "orders"),
        (EventKind.ADDED, "alice", "m1", "orders"),
        (EventKind.EFFECT, "worker-1", "m1", "orders"),
        (EventKind.EFFECT, "worker-2", "m1", "orders"),
        (EventKind.ACCEPTED, "carol", "m2", "orders"),
        (EventKind.ADDED, "carol", "m2", "orders"),
        (EventKind.HANDLED, "worker-1", "m2", "orders"),
        (EventKind.EFFECT, "worker-1", "m2", "other"),
        *((EventKind.ACCEPTED, "alice", message, "orders") for message in ("m3", "m4", "m5")),
        (EventKind.STALLED, "alice", "m3", "orders"),
        (EventKind.DEAD_LETTERED, "worker-1", "m4", "orders"),
        (EventKind.STALLED, "alice", "m5", "other"),
    ]:
        trace(Event(kind, 0.0, actor, message, channel))
    verdict = check_effects(trace, "orders")
    assert (verdict.sent, verdict.delivered, verdict.acknowledgement) == (5, 1, "added")
    assert (verdict.lost, verdict.silently_lost) == (("m2", "m5"), ("m2",))
    assert (verdict.duplicated, verdict.stalled, verdict.dead_lettered) == (
        ("m1",),
        ("m3",),
        ("m4",),
    )

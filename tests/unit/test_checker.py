"""The checker: from what was sent and what arrived to a verdict."""

from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.events import Event, Kind
from mpim_lab.lab.checker import check, check_trace
from mpim_lab.lab.trace import Trace

IDS = [f"m{number}" for number in range(1, 9)]


def test_everything_once_and_in_order_is_exactly_once_in_this_run():
    """A run proves no guarantee, and the verdict does not claim one."""
    verdict = check(IDS, IDS)
    assert verdict.semantics == "exactly once in this run, in order"
    assert (verdict.sent, verdict.delivered) == (8, 8)


def test_a_missing_message_is_lost_and_its_sender_may_have_been_told_otherwise():
    """Lost is what nobody handled; misreported is what was lost although its sender was told "delivered"."""
    verdict = check(["m1", "m2", "m3"], ["m1"], promised=["m1", "m2"])
    assert verdict.lost == ("m2", "m3")
    assert verdict.misreported == ("m2",)
    assert verdict.semantics == "at most once, in order"


def test_a_duplicate_is_not_also_a_reordering():
    """A redelivery that comes late does not make its message reordered: the first delivery counts."""
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
    """sent = delivered + lost; duplicates and late ones are among the delivered; equal inputs give equal verdicts."""
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
    assert 'told "delivered" but lost 1  (m2)' in text
    assert "at most once" in text


def test_many_ids_are_shortened():
    """A thousand lost messages do not fill the page."""
    assert "…" in str(check([f"m{number}" for number in range(1_000)], []))


def test_a_trace_is_judged_for_one_receiver_and_one_channel():
    """What others handled, and what travelled on other channels (confirmations), does not count."""
    trace = Trace()
    for kind, actor, message, channel in [
        (Kind.ACCEPTED, "alice", "m1", "user:1"),
        (Kind.HANDLED, "carol", "m1", "user:1"),
        (Kind.ACCEPTED, "alice", "m2", "user:1"),
        (Kind.HANDLED, "bob", "m2", "user:1"),
        (Kind.ACCEPTED, "bob", "m2", "confirm:1"),
        (Kind.HANDLED, "alice", "m2", "confirm:1"),
    ]:
        trace(Event(kind, 0.0, actor, message, channel))
    verdict = check_trace(trace, "bob", "user:1")
    assert (verdict.sent, verdict.lost, verdict.duplicated) == (2, ("m1",), ())

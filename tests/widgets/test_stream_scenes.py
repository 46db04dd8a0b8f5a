"""The story of a stream's messages: who had them, who died with them, where they ended."""

import pytest

from mpim_lab.events import Event, EventKind
from mpim_lab.widgets.scenes.builder import build_scene
from mpim_lab.widgets.scenes.scene import Band, Leg
from mpim_lab.widgets.scenes.svg import space_time_svg
from tests.traces import fault, trace_of

STREAM = "orders"


def event(kind, actor, message, **more):
    return Event(kind, 0.0, actor, message, STREAM, **more)


def added(message):
    """alice adds it, and is told so."""
    return [
        event(EventKind.ACCEPTED, "alice", message),
        event(EventKind.ADDED, "alice", message, detail="1-0"),
        event(EventKind.OUTCOME, "alice", message, outcome="added"),
    ]


def given(message, worker="worker-1", deliveries=1):
    """The group gives it to a worker."""
    claimed = (
        [event(EventKind.CLAIMED, worker, message, count=deliveries)] if deliveries > 1 else []
    )
    return [*claimed, event(EventKind.RECEIVED, worker, message, count=deliveries)]


def done(message, worker="worker-1"):
    """Work, handled, acknowledged."""
    return [
        event(kind, worker, message)
        for kind in (EventKind.EFFECT, EventKind.HANDLED, EventKind.ACKED)
    ]


def crashed(message, worker="worker-1", detail="crash before work"):
    """The worker dies with it."""
    return fault(detail, event(EventKind.CRASHED, worker, message, detail=detail))[:-1]


def ended(detail="crash before work"):
    """Another worker is there."""
    return [fault(detail)[1]]


def failed(message, worker="worker-1"):
    """A handler raises."""
    return [
        event(
            EventKind.FAILED,
            worker,
            message,
            error="ValueError",
            detail="ValueError: cannot be read",
        )
    ]


def told_of(*events, **options):
    scene = build_scene(trace_of(*events), **options)
    return scene, {story.id: story for story in scene.stories}


def test_an_order_that_is_done_once_goes_from_the_stream_to_its_worker():
    """Its effect is what counts: handled and acknowledged draw nothing more."""
    scene, stories = told_of(*added("m1"), *given("m1"), *done("m1"))
    assert (scene.producers, scene.channels, scene.consumers) == (["alice"], [STREAM], ["worker-1"])
    assert (stories["m1"].fate, stories["m1"].is_kept, scene.acknowledgement) == (
        "delivered",
        True,
        "added",
    )
    assert stories["m1"].legs == [Leg("alice", STREAM, 1, 1.35), Leg(STREAM, "worker-1", 1.35, 1.7)]
    assert stories["m1"].log == [
        "alice published it",
        "the stream keeps it",
        "alice got the outcome: added",
        "the stream gave it to worker-1, for the first time",
        "worker-1 did its work",
        "worker-1 acknowledged it",
    ]


def test_a_crash_before_the_work_is_a_lost_mark_at_the_worker_that_died():
    """The fault is a band there, until another worker comes, who claims it and does it.

    Delivered.
    """
    scene, stories = told_of(
        *added("m1"),
        *given("m1"),
        *crashed("m1"),
        *added("m2"),
        *ended(),
        *given("m1", "worker-2", 2),
        *done("m1", "worker-2"),
        *given("m2", "worker-2"),
        *done("m2", "worker-2"),
    )
    story = stories["m1"]
    assert [(leg.target, leg.outcome) for leg in story.legs] == [
        (STREAM, "arrived"),
        ("worker-1", "lost"),
        ("worker-2", "arrived"),
    ]
    assert {story.fate for story in scene.stories} == {"delivered"}
    assert scene.bands == [Band("worker-1", 1.9, 2.9, "crash before work")]
    assert "worker-1 crashed: crash before work" in story.log
    assert "worker-2 claimed it from who had it" in story.log
    assert "the stream gave it to worker-2, for the second time" in story.log


def test_after_a_crash_that_follows_the_work_another_does_it_once_more():
    """Two ways that arrived, no lost mark: duplicated."""
    _, stories = told_of(
        *added("m1"),
        *given("m1"),
        event(EventKind.EFFECT, "worker-1", "m1"),
        *crashed("m1", detail="crash after work"),
        *ended("crash after work"),
        *given("m1", "worker-2", 2),
        *done("m1", "worker-2"),
    )
    assert stories["m1"].fate == "duplicated"
    assert [(leg.target, leg.outcome) for leg in stories["m1"].legs[1:]] == [
        ("worker-1", "arrived"),
        ("worker-2", "arrived"),
    ]


def test_what_was_added_and_never_done_is_lost_and_misreported():
    """alice was told "added"; the lost mark is at the worker that had it."""
    scene, stories = told_of(
        *added("m1"),
        *given("m1"),
        event(EventKind.ACKED, "worker-1", "m1"),
        *crashed("m1"),
        *ended(),
    )
    assert (stories["m1"].fate, stories["m1"].silently_lost) == ("lost", True)
    assert stories["m1"].legs[1:] == [Leg(STREAM, "worker-1", 1.35, 1.7, "lost")]
    assert str(scene) == "1 messages: 1 lost (m1)"


def test_what_is_stalled_is_pending_and_nobody_was_misinformed():
    """It may still be done, so it is not lost."""
    _, stories = told_of(
        *added("m1"), *given("m1"), *crashed("m1"), event(EventKind.STALLED, "alice", "m1")
    )
    assert (stories["m1"].fate, stories["m1"].silently_lost) == ("pending", False)
    assert stories["m1"].log[-1] == "at the end nobody has finished it"


def test_a_dead_letter_ends_at_the_worker_that_gave_it_up():
    """One way, however often it was tried; its last mark is "dead-lettered", not "lost"."""
    retried = [event(EventKind.RETRIED, "worker-1", "m1", count=2), *failed("m1")]
    buried = event(
        EventKind.DEAD_LETTERED,
        "worker-1",
        "m1",
        detail="tries used up: ValueError: cannot be read",
    )
    scene, stories = told_of(*added("m1"), *given("m1"), *failed("m1"), *retried, buried)
    assert (stories["m1"].fate, stories["m1"].silently_lost) == ("dead-lettered", False)
    assert [(leg.target, leg.outcome) for leg in stories["m1"].legs] == [
        (STREAM, "arrived"),
        ("worker-1", "dead-lettered"),
    ]
    assert "worker-1 tries it again, for the second time" in stories["m1"].log
    assert (
        stories["m1"].log[-1]
        == "worker-1 gave it up, a dead letter: tries used up: ValueError: cannot be read"
    )
    assert str(scene) == "1 messages: 1 dead-lettered"


def test_a_failure_that_a_second_try_mends_is_delivered():
    """The first try's mark stays."""
    again = event(EventKind.RETRIED, "worker-1", "m1", count=2)
    _, stories = told_of(*added("m1"), *given("m1"), *failed("m1"), again, *done("m1"))
    assert stories["m1"].fate == "delivered"
    assert sorted(leg.outcome for leg in stories["m1"].legs) == ["arrived", "arrived", "lost"]


@pytest.mark.parametrize(
    ("count", "word"), [(1, "first"), (2, "second"), (3, "third"), (4, "4th"), (11, "11th")]
)
def test_deliveries_are_counted_in_words(count, word):
    """As one would say them."""
    _, stories = told_of(*added("m1"), event(EventKind.RECEIVED, "worker-1", "m1", count=count))
    assert stories["m1"].log[-1] == f"the stream gave it to worker-1, for the {word} time"


def test_while_a_run_goes_on_what_waits_in_the_stream_is_on_its_way():
    """Neither lost nor silently_lost before the end."""
    _, stories = told_of(*added("m1"), finished=False)
    assert (stories["m1"].fate, stories["m1"].silently_lost) == ("pending", False)


def test_the_picture_of_a_stream_can_be_drawn():
    """With every kind of end in it."""
    scene, _ = told_of(
        *added("m1"),
        *given("m1"),
        *done("m1"),
        *added("m2"),
        *given("m2"),
        *failed("m2"),
        event(EventKind.DEAD_LETTERED, "worker-1", "m2", detail="r"),
        *added("m3"),
        *given("m3"),
        *crashed("m3"),
        event(EventKind.STALLED, "alice", "m3"),
    )
    assert "worker-1" in space_time_svg(scene, "orders")

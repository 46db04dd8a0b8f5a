"""The story: from a trace to what a picture shows, the same in every run of a seed."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.events import Event, EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets.scenes import builder as scene_builder
from mpim_lab.widgets.scenes import im_builder as im_scene_builder
from mpim_lab.widgets.scenes.builder import build_scene
from mpim_lab.widgets.scenes.scene import Band, Leg
from mpim_lab.widgets.scenes.svg import space_time_svg
from tests.traces import (
    BOB_LISTENS,
    CHANNEL,
    CONFIRM,
    by_alice,
    by_bob,
    delivered,
    duplicated,
    fault,
    handled,
    lost,
    sent,
    told,
    trace_of,
)


def fates(scene):
    return {story.id: story.fate for story in scene.stories}


def test_what_became_of_each_message():
    """Handled once, more than once, never; who took part is found in the events."""
    scene = build_scene(trace_of(BOB_LISTENS, *delivered("m1"), *lost("m2"), *duplicated("m3")))
    assert fates(scene) == {"m1": "delivered", "m2": "lost", "m3": "duplicated"}
    assert (scene.producers, scene.channels, scene.consumers) == (["alice"], [CHANNEL], ["bob"])
    assert str(scene) == "3 messages: 1 delivered, 1 duplicated, 1 lost (m2)"


def test_an_empty_trace_has_an_empty_scene():
    """Nobody, nothing, and no error."""
    scene = build_scene(Trace())
    assert (scene.stories, scene.bands, scene.steps) == ([], [], 0)
    assert str(scene) == "0 messages: none yet"


def test_many_lost_messages_are_not_all_named():
    """The first twelve are."""
    text = str(
        build_scene(
            trace_of(BOB_LISTENS, *(event for number in range(20) for event in lost(f"m{number}")))
        )
    )
    assert "20 lost (m0, " in text
    assert text.endswith("m11, …)")


def test_while_a_run_goes_on_what_has_not_arrived_is_on_its_way():
    """Neither lost nor silently_lost before the end."""
    trace = trace_of(BOB_LISTENS, *sent("m1"), *told("m1"))
    (story,) = build_scene(trace, finished=False).stories
    assert (story.fate, story.silently_lost, story.legs[-1].target) == ("pending", False, CHANNEL)
    (story,) = build_scene(trace).stories
    assert (story.fate, story.silently_lost, story.legs[-1].target) == ("lost", True, "bob")


@pytest.mark.parametrize(
    ("life", "silently_lost"),
    [
        (lost("m1"), True),
        (delivered("m1"), False),
        ([*sent("m1", receivers=0), *told("m1", "offline")], False),
        ([*sent("m1"), *told("m1", "failed"), *handled("m1")], False),
    ],
)
def test_silently_lost_is_what_was_lost_although_its_sender_was_told_delivered(life, silently_lost):
    """As in the verdict."""
    (story,) = build_scene(trace_of(BOB_LISTENS, *life)).stories
    assert story.silently_lost is silently_lost


def test_every_attempt_takes_a_step():
    """A repeat does, and so does a message that was given up before it was published."""
    scene = build_scene(
        trace_of(
            BOB_LISTENS,
            *delivered("m1"),
            *told("m2", "offline"),
            *duplicated("m3"),
            *delivered("m4"),
        )
    )
    assert scene.steps == 5
    assert [story.legs[0].begin for story in scene.stories] == [1, 2, 3, 5]
    assert scene.stories[1].legs == [Leg("alice", "alice", 2, 2.1, "lost")]


def test_a_delivered_message_goes_from_sender_to_channel_to_receiver_within_its_step():
    """At the server at 0.35, at the receiver at 0.7."""
    (story,) = build_scene(trace_of(BOB_LISTENS, *delivered("m1"))).stories
    assert story.legs == [Leg("alice", CHANNEL, 1, 1.35), Leg(CHANNEL, "bob", 1.35, 1.7)]


def test_a_message_nobody_listened_to_ends_at_the_server():
    """One that was handed over and never handled ends on the way from it."""
    scene = build_scene(trace_of(BOB_LISTENS, *sent("m1", receivers=0), *sent("m2", receivers=1)))
    assert scene.stories[0].legs == [Leg("alice", CHANNEL, 1, 1.35, "lost")]
    assert [(leg.source, leg.outcome) for leg in scene.stories[1].legs] == [
        ("alice", "arrived"),
        (CHANNEL, "lost"),
    ]


@pytest.mark.parametrize(
    ("error", "outcome"), [("NotConnected", "lost"), ("CommandTimeout", "arrived")]
)
def test_only_a_definite_failure_ends_an_attempt(error, outcome):
    """After a time-out the message may be there all the same, and may still be handled."""
    failure = by_alice("m1", EventKind.FAILED, error=error, detail=f"{error}: no luck")
    (story,) = build_scene(
        trace_of(BOB_LISTENS, by_alice("m1", EventKind.ACCEPTED), failure), finished=False
    ).stories
    assert [leg.outcome for leg in story.legs] == [outcome]
    assert f"alice failed: {error}" in story.log


def test_a_story_is_told_in_words():
    """In the order of the events, repeats as such."""
    story = build_scene(
        trace_of(BOB_LISTENS, by_alice("m1", EventKind.CHECKED, count=1), *duplicated("m1"))
    ).stories[0]
    assert story.log[:3] == [
        "alice asked the server who is there: 1 listen",
        "alice published it",
        "the server handed it to 1 subscriber",
    ]
    assert "alice published it again" in story.log
    assert story.log[-1] == "alice got the outcome: delivered"


def test_faults_are_bands_at_the_node_they_strike():
    """The server's at the channel, the others at the receiver.

    From the step before to the step at the end.
    """
    scene = build_scene(
        trace_of(
            BOB_LISTENS,
            *delivered("m1"),
            *fault("away", *lost("m2")),
            *fault("kill", *lost("m3"), *lost("m4")),
        )
    )
    assert scene.bands == [Band("bob", 1.9, 2.9, "away"), Band(CHANNEL, 2.9, 4.9, "kill")]


def test_a_fault_that_still_lasts_is_a_band_to_the_end():
    """So that one sees it while the run goes on."""
    scene = build_scene(trace_of(BOB_LISTENS, *fault("cut", *lost("m1"))[:-1]), finished=False)
    assert scene.bands == [Band("bob", 0.9, 2.0, "cut")]


def test_a_sampled_trace_says_so():
    """The scene's note, and so its text."""
    lives = [event for number in range(400) for event in delivered(f"m{number}")]
    trace = trace_of(BOB_LISTENS, *lives, sample_above_per_s=500)
    assert trace.sample_rate > 1
    assert str(build_scene(trace)).endswith(f"; one message in {trace.sample_rate} is shown")


def test_a_trace_that_was_full_says_how_much_is_missing():
    """It is not a sample: "one in 1" would be no word of what is missing."""
    assert (
        build_scene(trace_of(BOB_LISTENS, *delivered("m1"), *delivered("m2"), limit=6)).note
        == "5 events are not shown"
    )


def test_a_life_whose_beginning_is_missing_is_told_as_far_as_it_is_known():
    """A trace that was full begins to sample and has room again."""
    assert fates(
        build_scene(trace_of(BOB_LISTENS, *sent("m1", receivers=0)[1:], *handled("m2")))
    ) == {
        "m1": "lost",
        "m2": "delivered",
    }


def test_load_processes_report_batch_by_batch_and_are_told_in_order_of_time():
    """The receiver's batch may come before the publisher's."""
    trace = Trace()
    trace.events += [
        Event(EventKind.HANDLED, at + 0.1, "receiver", f"m{at}", CHANNEL) for at in (1, 2, 3)
    ]
    trace.events += [
        Event(EventKind.ACCEPTED, at, "publisher", f"m{at}", CHANNEL) for at in (1, 2, 3)
    ]
    scene = build_scene(trace)
    assert [story.legs[1].end for story in scene.stories] == [1.7, 2.7, 3.7]
    assert scene.stories[0].log == ["publisher published it", "receiver handled it"]


def test_two_thousand_messages_are_told_in_reasonable_size():
    """All in the scene, as many as can be read in the picture."""
    lives = [event for number in range(2_000) for event in delivered(f"m{number}")]
    scene = build_scene(trace_of(BOB_LISTENS, *lives))
    assert (len(scene.stories), scene.steps, scene.note) == (2_000, 2_000, "")
    assert sum(len(story.legs) for story in scene.stories) == 4_000
    assert len(space_time_svg(scene, "many")) < 20_000


def merged(chance, *lines):
    """The events of several connections, each in its own order, otherwise in any."""
    lines = [list(line) for line in lines]
    while left := [line for line in lines if line]:
        yield chance.choice(left).pop(0)


def confirmed(chance, message):
    """alice's two connections and bob hear of one message at about the same time."""
    accepted, published = sent(message)
    confirmation = [
        by_alice(message, kind, channel=CONFIRM) for kind in (EventKind.RECEIVED, EventKind.HANDLED)
    ]
    confirmation.insert(1, by_alice(message, EventKind.CONFIRMED))
    yield from [
        accepted,
        *by_bob(message, EventKind.RECEIVED),
        *by_bob(message, EventKind.ACCEPTED, channel=CONFIRM),
    ]
    alice = [*merged(chance, [published], confirmation), *told(message)]
    yield from merged(
        chance,
        alice,
        [
            *by_bob(message, EventKind.PUBLISHED, channel=CONFIRM),
            *by_bob(message, EventKind.HANDLED),
        ],
    )


def told_anyhow(chance):
    """A naive version's message, one lost during a fault, a confirmed one repeated, and another."""
    yield BOB_LISTENS
    yield sent("m1")[0]
    yield from merged(chance, [*sent("m1")[1:], *told("m1")], handled("m1"))
    yield from fault("away", *lost("m2"), *sent("m3", receivers=0))
    yield from confirmed(chance, "m3")
    yield from confirmed(chance, "m4")


@given(st.integers(0, 10**9))
def test_the_picture_does_not_depend_on_which_connection_heard_first(seed):
    """Everything but the words of a message's log, which keep the order of the events."""
    trace, ordered = (
        trace_of(*told_anyhow(random.Random(seed))),
        trace_of(*told_anyhow(random.Random(0))),
    )
    scene, expected = build_scene(trace), build_scene(ordered)
    assert space_time_svg(scene, "t") == space_time_svg(expected, "t")
    for story, other in zip(scene.stories, expected.stories, strict=True):
        assert sorted(story.log) == sorted(other.log)
        assert replace(story, log=[]) == replace(other, log=[])
    assert replace(scene, stories=[]) == replace(expected, stories=[])


@pytest.mark.parametrize(
    "builder", [scene_builder, im_scene_builder], ids=lambda each: each.__name__.split(".")[-1]
)
def test_every_kind_of_event_is_drawn_or_ignored_on_purpose(builder):
    """A kind that is new, or renamed, does not vanish from the pictures in silence."""
    tables = [set(builder._SceneBuilder.HANDLERS), builder.HANDLED_BY_ADD, builder.IGNORED]
    assert set().union(*tables) == set(EventKind)
    assert sum(map(len, tables)) == len(EventKind)

"""The card of a challenge's outcome: its words, and the failing message's way."""

from mpim_lab.events import Event, EventKind
from mpim_lab.lab.exercise.challenge import ChallengeResult, TrialFailure
from mpim_lab.widgets import ResultCard
from tests.traces import delivered, lost, trace_of


def bundle(outcome):
    return ResultCard(outcome)._repr_mimebundle_()[0]


def test_a_failure_shows_its_story_and_its_message_alone():
    """Other messages of the run would only be in the way."""
    trace = trace_of(*delivered("m1"), *lost("m2"), *delivered("m3"))
    failure = TrialFailure("m2 was lost", "fault 'away', seed 1", "m2", ("alice: accepted",), trace)
    found = bundle(ChallengeResult("Lose nothing", failure))
    assert found["text/plain"].startswith("✘ Lose nothing: m2 was lost")
    assert "m2: its way" in found["image/svg+xml"]
    assert ">m1<" not in found["image/svg+xml"]
    assert found["image/svg+xml"] in found["text/html"]
    assert "alice: accepted" in found["text/html"]


def test_the_same_outcome_gives_the_same_card():
    """It is stored in the notebooks, and compared."""
    failure = TrialFailure("m1 was lost", "t", "m1", (), trace_of(*lost("m1")))
    assert bundle(ChallengeResult("a", failure)) == bundle(ChallengeResult("a", failure))


def test_workers_that_act_side_by_side_are_drawn_in_one_order():
    """Which of two that begin together is first depends on the machine."""
    cards = []
    for first, second in (("worker-1", "worker-2"), ("worker-2", "worker-1")):
        steps = [
            Event(kind, 0.0, actor, "m1")
            for kind in (EventKind.RECEIVED, EventKind.EFFECT, EventKind.ACKED)
            for actor in (first, second)
        ]
        failure = TrialFailure("m1 was done twice", "t", "m1", (), trace_of(*steps))
        cards.append(bundle(ChallengeResult("a", failure)))
    assert cards[0] == cards[1]
    assert ">worker-1<" in cards[0]["image/svg+xml"]


def test_what_the_learners_class_says_is_text_not_html():
    """An error's words may be anything."""
    failure = TrialFailure(
        "your class raised ValueError: <script>alert(1)</script>", "while running"
    )
    assert "<script>" not in bundle(ChallengeResult("a", failure))["text/html"]


def test_a_pass_has_no_picture():
    """There is no story to tell."""
    found = bundle(ChallengeResult("Lose nothing", None))
    assert found["text/plain"] == "✔ Lose nothing: passed"
    assert "image/svg+xml" not in found

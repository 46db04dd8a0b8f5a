"""The page that a gateway serves: windows side by side, each of one user, over a real system in a real Chromium."""

import pytest

from tests.browser.conftest import keep
from tests.browser.mpim_window import WITHIN_S, Hall, Window, expect


@pytest.fixture
def hall(chromium):
    with Hall() as hall:
        yield hall


@pytest.fixture
def window(chromium):
    """Open windows, each with a session of its own; what went wrong in one fails the test."""
    errors, contexts = [], []

    def open_one(*, width=640, dark=False):
        size = {"width": width, "height": 800}
        context = chromium.new_context(viewport=size, color_scheme="dark" if dark else "light")
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        contexts.append(context)
        return Window(page)

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def alice_and_bob(hall, window):
    """Two windows side by side, on two gateways, in one conversation."""
    alice = window().log_in(hall.fronts[0].url, "alice")
    bob = window(dark=True).open(hall.fronts[1].url, "bob")
    alice.is_connected_to("gw-1")
    bob.is_connected_to("gw-2")
    alice.talk_to("bob")
    bob.talk_to("alice")
    return alice, bob


def test_two_users_on_two_gateways_read_the_same_conversation_in_the_same_order(alice_and_bob):
    """Both ways, each message once, under its number.

    What I wrote says that it is kept, and that it was pushed.
    """
    alice, bob = alice_and_bob
    alice.say("Hello Bob", "消息各到一次 <b>&amp;", "two\nlines")
    expect(bob.see("message")).to_have_count(3)
    bob.say("Hello Alice", "I read you")
    assert alice.numbered(5) == bob.numbered(5)
    texts = ["Hello Bob", "消息各到一次 <b>&amp;", "two\nlines", "Hello Alice", "I read you"]
    assert alice.numbered(5) == list(enumerate(texts, 1))
    expect(alice.see("message").first).to_contain_text("kept · pushed")
    keep(alice.page, "mpim-alice")
    keep(bob.page, "mpim-bob-dark")


def test_a_member_of_a_group_who_was_away_gets_everything_on_return(hall, window, alice_and_bob):
    """Unread ones are counted, and in order when opened.

    Somebody may read them on a narrow screen.
    """
    alice, bob = alice_and_bob
    alice.create_group("tea", "bob, carol")
    alice.say(*(f"cup {number}" for number in range(1, 8)))
    bob.conversation("#tea").click()
    assert bob.numbered(7) == alice.numbered(7)
    carol = window(width=360).open(hall.fronts[1].url, "carol")
    expect(carol.conversation("#tea").locator(".unread")).to_have_text("7")
    carol.conversation("#tea").click()
    assert carol.numbered(7) == alice.numbered(7)
    carol.members_are("alice", "bob", "carol")  # bob has written nothing
    hall.do(hall.join("tea", "dave", "milk?"))
    carol.members_are("alice", "bob", "carol", "dave")
    keep(carol.page, "mpim-carol-narrow")


def test_a_message_under_the_id_of_somebody_elses_takes_nobodys_place(hall, alice_and_bob):
    """An id is its sender's: whoever reads it in a push can send under it, too."""
    alice, bob = alice_and_bob
    alice.create_group("tea", "bob")
    alice.say("Pay 10 to Carol")
    bob.conversation("#tea").click()
    expect(bob.see("message")).to_have_count(1)
    hall.do(
        hall.join(
            "tea", "eve", "Pay 999 to Eve", id=bob.see("message").first.get_attribute("data-id")
        )
    )
    alice.say("agreed?")
    wanted = [(1, "Pay 10 to Carol"), (2, "Pay 999 to Eve"), (3, "agreed?")]
    assert bob.numbered(3) == alice.numbered(3) == wanted


def test_presence_follows_who_comes_and_goes(hall, window, alice_and_bob):
    """By colour, shape and word: online, offline when the window is closed, online again."""
    alice, bob = alice_and_bob
    alice.presence_of("bob", "online")
    bob.page.close()
    alice.presence_of("bob", "offline")
    window().open(hall.fronts[1].url, "bob")
    alice.presence_of("bob", "online")


def test_a_notice_is_seen_by_everybody_and_can_be_dismissed(hall, alice_and_bob):
    """One banner a notice, on every gateway."""
    alice, bob = alice_and_bob
    hall.do(hall.mpim.broadcast("Maintenance at six"))
    for each in (alice, bob):
        expect(each.see("notice")).to_contain_text("Maintenance at six")
    alice.see("notice").get_by_role("button", name="Dismiss").click()
    expect(alice.see("notice")).to_have_count(0)


def test_when_a_gateway_closes_both_go_on_through_the_other_and_nothing_is_lost(
    hall, alice_and_bob
):
    """Said before, meanwhile and after; a cable that is pulled changes nothing either."""
    alice, bob = alice_and_bob
    alice.say("before 1", "before 2")
    closing = hall.begin(hall.mpim.stop("gw-1"))
    alice.say(*(f"meanwhile {number}" for number in range(5)))
    bob.say(*(f"from bob {number}" for number in range(5)))
    closing.result(WITHIN_S)
    alice.is_connected_to("gw-2")
    hall.cut(1)
    alice.say("after")
    seen = alice.numbered(13)
    assert seen == bob.numbered(13) and [number for number, _ in seen] == list(range(1, 14))
    mine = ["before 1", "before 2", *(f"meanwhile {number}" for number in range(5)), "after"]
    assert [text for _, text in seen if not text.startswith("from bob")] == mine


def test_what_is_written_while_no_gateway_answers_is_sent_later_also_after_a_reload(
    hall, alice_and_bob
):
    """The message waits in the window under the id it was given, and arrives once."""
    alice, bob = alice_and_bob
    port = hall.mpim.gateways["gw-2"].port
    hall.do(hall.mpim.stop("gw-1"))
    hall.do(hall.mpim.stop("gw-2"))
    alice.say("into the dark")
    expect(alice.see("message")).to_have_attribute("data-state", "sending")
    expect(alice.see("gateway")).to_contain_text("reconnecting")
    hall.do(hall.mpim.start("gw-2", port=port))
    alice.page.reload()
    alice.conversation("alice:bob").click()
    assert alice.numbered(1) == bob.numbered(1) == [(1, "into the dark")]

"""Chapter 8's challenges: routes without ghosts, a fan-out to a group, reading in order."""

from mpim_lab.chapters.ch08_im import fanout_harness, presence_harness, reader_harness
from mpim_lab.chapters.ch08_im.reader_harness import MAX_PAGE_SIZE
from mpim_lab.lab.exercise.legacy_challenge import Challenge


def routes_without_ghosts() -> Challenge:
    """Where a user is connected.

    True after a move, a death, and what two gateways do at the same time.
    """
    return Challenge(
        "Routes without ghosts",
        "Write a class with `__init__(self, call, lifetime_s)`,\n"
        "`async bind(self, uid, gateway, connection)`, `unbind` and `renew` with the same\n"
        "arguments, and `async where(self, uid)`, which returns the gateway or None. Each\n"
        'gateway has an object of your class; they share a server: `await call("SET", key, …)`\n'
        "runs one command, and returns text. The last bind is where the user is. A bind or\n"
        "renew counts for `lifetime_s` seconds (it may be a fraction). Gateways die at any\n"
        "moment, and hear late that a connection ended: unbind and renew are for the route of\n"
        "this very connection, if it is still there, and leave another one's as it is.",
        [presence_harness.presence_trial(*case) for case in presence_harness.CASES],
        [
            (
                "Keep gateway and connection in the value: whoever unbinds must know whose "
                "route it is. Give it a lifetime (PX)."
            ),
            (
                "Between your GET and your DEL, another gateway may SET. What the server does "
                "in one command nobody can part."
            ),
            (
                '`call("EVAL", script, 1, key, mine, ms)`: in Lua, '
                '`if redis.call("GET", KEYS[1]) == ARGV[1] then … end`.'
            ),
        ],
    )


def tell_the_whole_group() -> Challenge:
    """A message to a group.

    The same few round trips for 5 and for 500, and the truth about each member.
    """
    return Challenge(
        "Tell the whole group",
        "Write a class with `__init__(self, pipeline, store)` and\n"
        '`async send(self, members, message)`, which returns {"pushed": […], "stored": […],\n'
        '"failed": […]}: each member in one of them.\n'
        '`await pipeline([("PUBLISH", "user:bob", message), …])` runs many commands in one\n'
        "round trip and returns a reply each: how many listened, or an exception in its place:\n"
        "that one failed. For whom nobody listened, `await store(uids, message)` keeps it, in\n"
        "one transaction, or raises StoreFailed: then those failed, too. After a failure `send`\n"
        "is called again with the same message: it must try those who failed, and nobody else.",
        [fanout_harness.fanout_trial(*case) for case in fanout_harness.CASES],
        [
            "One list of commands, one pipeline; then look at the replies, member by member (zip).",
            (
                "A reply is a number above 0, or 0, or an exception, and an exception is true "
                "as well: isinstance comes first."
            ),
            (
                "Keep a dict for each message, from member to what became of her. `send` leaves "
                "out who is pushed or stored."
            ),
        ],
    )


def read_in_order() -> Challenge:
    """A client's reading rule: each message once, in order, and asked for when it is missing."""
    return Challenge(
        "Read in order",
        "Write a class with `__init__(self, ask)`, `push(self, number, text)` and\n"
        "`page(self, messages, last)`, which give the list of texts to show now, and\n"
        "`last(self, number)`. Numbers begin at 1; each text is shown once, in order, as soon as\n"
        "its turn comes. Pushes come early, late, twice or never. `last` says how far the\n"
        "conversation is. When something is missing call `ask(after)`, at once, with the number\n"
        f"shown last. The answer comes later, by `page`: at most {MAX_PAGE_SIZE} pairs (number,\n"
        "text) that came after it, and how far the conversation was when it was read.\n"
        "Do not ask again before that answer is there, nor for nothing.",
        [reader_harness.reader_trial(title, *scripts) for title, scripts in reader_harness.CASES],
        [
            (
                "Two numbers and a dict: what is shown, how far the conversation is known to "
                "go, and what came early."
            ),
            (
                "push and page do the same with each message: keep it if it is new, then show "
                "as long as the next one is there."
            ),
            (
                "After every call: is more known of than shown, and no answer to come? Then "
                "ask. A page is an answer."
            ),
        ],
    )

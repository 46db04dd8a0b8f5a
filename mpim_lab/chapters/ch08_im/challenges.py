"""Chapter 8's challenges: routes without ghosts, a fan-out to a group, reading in order."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from mpim_lab.chapters.ch08_im import fanout_model, reader_model
from mpim_lab.chapters.ch08_im.fanout_model import MAX_ROUND_TRIPS
from mpim_lab.chapters.ch08_im.reader_model import MAX_PAGE_SIZE
from mpim_lab.chapters.ch08_im.route_history import MARGIN_S
from mpim_lab.chapters.ch08_im.route_runs import LIFETIME_S, RouteRun
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.explorer import Explorer
from mpim_lab.lab.exercise.model_check import ModelCheck


class Routes(Protocol):
    """What a solution of `routes_without_ghosts` looks like: each gateway has an object of it."""

    def __init__(self, call: Callable[..., Awaitable[Any]], lifetime_s: float) -> None: ...

    async def bind(self, uid: str, gateway: str, connection: str) -> None:
        """Note that the user is connected here."""
        ...

    async def unbind(self, uid: str, gateway: str, connection: str) -> None:
        """Note that this connection has ended."""
        ...

    async def renew(self, uid: str, gateway: str, connection: str) -> None:
        """Note that this connection is still there."""
        ...

    async def where(self, uid: str) -> str | None:
        """Return the gateway where the user is, or None."""
        ...


def routes_without_ghosts() -> Challenge:
    """Where a user is connected: after a move, a death, and what gateways do at the same time."""
    return Challenge(
        "Routes without ghosts",
        "Write a class with `__init__(self, call, lifetime_s)`, `async bind(self, uid,\n"
        "gateway, connection)`, `unbind` and `renew` with the same arguments, and `async\n"
        "where(self, uid)`, which returns the gateway or None. Each gateway is a process with\n"
        'an object of your class; they share a server: `await call("SET", key, …)` runs one\n'
        "command, over this object's one connection, and returns text. Methods of one object\n"
        "are also called at the same time. A connection's name is used once; all names are\n"
        "printable text, with spaces and colons, too. Gateways die at any moment, are slow,\n"
        "and hear late that a connection ended. If the server cannot be reached, a method may\n"
        f"raise what `call` raises; then it is called again. `lifetime_s` is {LIFETIME_S:g}\n"
        f"here; {MARGIN_S * 1e3:g} ms more or less do not matter.",
        examiner=Explorer(RouteRun, budget=320),
        interface=Routes,
        module=__name__,
        name="routes_without_ghosts",
        guarantees=(
            "The last bind is where the user is: `where` gives that gateway's name, as it was\n"
            "   handed, at each gateway.",
            "Once the connection of the last bind is unbound, `where` gives None.",
            "unbind and renew are for the route of this very connection, if it is still\n"
            "   there. They leave another one's as it is: they neither delete, replace, nor\n"
            "   renew it.",
            "A bind or renew counts for `lifetime_s` seconds, no shorter and no longer,\n"
            "   whoever dies and whenever.",
            "Each call comes to an end within 3 s, whatever becomes of other gateways.",
        ),
        hints=[
            "Keep gateway and connection in the value: whoever unbinds must know whose route\n"
            "it is. Give it a lifetime (PX).",
            "Between your GET and your DEL, another gateway may SET. What the server does in\n"
            "one command nobody can part.",
            '`call("EVAL", script, 1, key, mine, ms)`: in Lua, `if redis.call("GET", KEYS[1])\n'
            "== ARGV[1] then … end`.",
        ],
        difficulty=2,
        minutes=25,
    )


class FanOut(Protocol):
    """What a solution of `tell_the_whole_group` looks like."""

    def __init__(
        self,
        pipeline: Callable[[Iterable[Sequence[Any]]], Awaitable[list[Any]]],
        store: Callable[[Iterable[str], str], Awaitable[None]],
    ) -> None: ...

    async def send(self, members: Sequence[str], message: str) -> Mapping[str, Iterable[str]]:
        """Send to each member; return who is "pushed", "stored", and "failed"."""
        ...


def tell_the_whole_group() -> Challenge:
    """A message to a group: the same few round trips for 5 and for 500, and a true report."""
    return Challenge(
        "Tell the whole group",
        "Write a class with `__init__(self, pipeline, store)` and `async send(self, members,\n"
        'message)`, which returns {"pushed": […], "stored": […], "failed": […]}. `await\n'
        'pipeline([("PUBLISH", "user:bob", message), …])` runs many commands in one round\n'
        "trip and returns a reply each: how many listened (two, if she has two devices), or\n"
        "an exception in its place: that one failed. For whom nobody listened, `await\n"
        "store(uids, message)` keeps it, in one transaction, or raises StoreFailed: then\n"
        "those failed, too. If somebody failed, `send` is called again with the same message,\n"
        "once or several times; the group may have changed meanwhile, and so may who listens.\n"
        "Other messages are sent before that, and also at the same time; the text is what\n"
        "tells them apart. A member may be listed twice. Two objects know nothing of each\n"
        "other's groups.",
        examiner=ModelCheck(
            fanout_model.play_fanout, fanout_model.SENDS, always=fanout_model.KNOWN, budget=1_500
        ),
        interface=FanOut,
        module=__name__,
        name="tell_the_whole_group",
        guarantees=(
            "Each member who does not have the message is tried by PUBLISH, whoever else\n"
            "   fails. For whom nobody listened, and for nobody else, it is stored.",
            "Nobody gets it twice, pushed or stored, however often it is sent. Who has it, or\n"
            "   is no member now, is not tried.",
            "`send` raises nothing, and its report is true: each member is in one of the\n"
            "   lists. Who had it before may be left out.",
            f"One `send` is at most {MAX_ROUND_TRIPS} calls of `pipeline` and one transaction,\n"
            "   whatever the size of the group. `store` is not called for nobody.",
        ),
        hints=[
            "One list of commands, one pipeline; then look at the replies, member by member\n"
            "(zip).",
            "A reply is a number above 0, or 0, or an exception, and an exception is true as\n"
            "well: isinstance comes first.",
            "Keep a dict for each message, from member to what became of her. `send` leaves\n"
            "out who is pushed or stored.",
        ],
        difficulty=2,
        minutes=25,
    )


class Reader(Protocol):
    """What a solution of `read_in_order` looks like: each reader of a conversation has one."""

    def __init__(self, ask: Callable[[int], None]) -> None: ...

    def push(self, number: int, text: str) -> list[str]:
        """Take in a push; return the texts to show now."""
        ...

    def page(self, messages: Sequence[tuple[int, str]], last: int) -> list[str]:
        """Take in the answer to `ask`; return the texts to show now."""
        ...

    def last(self, number: int) -> None:
        """Take in how far the conversation was."""
        ...


def read_in_order() -> Challenge:
    """A client's reading rule: each message once, in order, and asked for when it is missing."""
    return Challenge(
        "Read in order",
        "Write a class with `__init__(self, ask)`, `push(self, number, text)` and `page(self,\n"
        "messages, last)`, which give the list of texts to show now, and `last(self,\n"
        "number)`. Numbers begin at 1. Pushes come early, late, twice or never. `last` says\n"
        "how far the conversation was; it may be overtaken by a push. `ask(after)`, a plain\n"
        "function, asks for what comes after that number. The answer comes later, by `page`:\n"
        f"at most {MAX_PAGE_SIZE} pairs (number, text), in order, from `after` + 1 on, and how\n"
        "far the conversation was when it was read. It may bring less than there is, even\n"
        "nothing, and what has been pushed meanwhile. Each reader has an object of its own.",
        examiner=ModelCheck(
            reader_model.play_reader, reader_model.STEPS, always=reader_model.KNOWN, budget=3_000
        ),
        interface=Reader,
        module=__name__,
        name="read_in_order",
        guarantees=(
            "Texts are shown in the order of their numbers, and none is left out.",
            "Each is shown once, by the very call that brings its turn.",
            "When something is missing, the same call asks for it: `ask(after)`, with the\n"
            "   number shown last. So does a page that does not bring everything.",
            "It does not ask again before the answer is there, nor for nothing.",
        ),
        hints=[
            "Two numbers and a dict: what is shown, how far the conversation is known to go,\n"
            "and what came early.",
            "push and page do the same with each message: keep it if it is new, then show as\n"
            "long as the next one is there.",
            "After every call: is more known of than shown, and no answer to come? Then ask.\n"
            "A page is an answer.",
        ],
        difficulty=1,
        minutes=20,
    )

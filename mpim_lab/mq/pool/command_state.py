"""What the pool must know about commands: their replies, what they change, if they block.

A server keeps state for each connection, and the next one to have the connection would be in it:
commands queued by a MULTI, watched keys, another database or user, tracking. `ConnectionState`
follows, by the commands' names, what one user leaves behind; the pool closes a connection that is
not as it was. RESET would clear it, too, but takes the login with it, and would cost everybody a
round trip for what few do.

Lua scripts and functions leave nothing: the server restores the database itself. Commands of
modules are not known here.
"""

from collections.abc import Sequence

from mpim_lab.errors import InvalidMessage

Word = bytes | str | int | float

_NO_REPLY = frozenset(
    [
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "SUNSUBSCRIBE",
        "MONITOR",
        "SYNC",
        "PSYNC",
    ]
)
_CHANGES = frozenset(
    ["SELECT", "AUTH", "HELLO", "RESET", "QUIT", "READONLY", "READWRITE", "ASKING"]
)
_CLIENT_CHANGES_NOTHING = frozenset(
    [
        "ID",
        "INFO",
        "LIST",
        "GETNAME",
        "GETREDIR",
        "TRACKINGINFO",
        "KILL",
        "PAUSE",
        "UNPAUSE",
        "UNBLOCK",
        "HELP",
    ]
)
_BLOCKS_LAST_S = frozenset(["BLPOP", "BRPOP", "BRPOPLPUSH", "BLMOVE", "BZPOPMIN", "BZPOPMAX"])
_BLOCKS_FIRST_S = frozenset(["BLMPOP", "BZMPOP"])
_BLOCKS_LAST_MS = frozenset(["WAIT", "WAITAOF"])
_READ_OPTION_WORDS = {
    "GROUP": 3,
    "COUNT": 2,
    "CLAIM": 2,
}  # of XREAD and XREADGROUP, the option's name included
_BLOCKING = _BLOCKS_LAST_S | _BLOCKS_FIRST_S | _BLOCKS_LAST_MS | {"XREAD", "XREADGROUP"}


def normalized_words(words: Sequence[Word]) -> list[str]:
    """The words of a command in capitals.

    The first one may hold two ("CLIENT ID"), as redis-py takes it.

    >>> normalized_words(["client id"]), normalized_words([b"get", b"k"])
    (['CLIENT', 'ID'], ['GET', 'K'])
    """
    text = [
        word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words
    ]
    return [word.upper() for word in [*(text[0].split() if text else []), *text[1:]]]


def require_single_reply(words: Sequence[Word]) -> None:
    """Raises InvalidMessage for what is not answered by one reply of its own.

    Whoever waited would wait in vain.
    """
    if not words or not isinstance(words[0], str | bytes) or not words[0].strip():
        raise InvalidMessage(f"a command begins with its name: {words[:1]}")
    head = normalized_words(words[:2])
    if head[0] in _NO_REPLY or head[:2] == ["CLIENT", "REPLY"]:
        advice = (
            "MessageQueue.subscribe is for that"
            if "SUBSCRIBE" in head[0]
            else "use a connection outside the pool"
        )
        raise InvalidMessage(f"{' '.join(head[:2])} is not answered by one reply: {advice}")


class ConnectionState:
    """The state that the commands of one user have left on the connection.

    `dirty_reason` is empty while it is as it was.

    >>> state = ConnectionState()
    >>> state.observe(["WATCH", "k"]); state.observe(["MULTI"]); state.dirty_reason
    'MULTI without EXEC'
    >>> state.observe(["EXEC"]); state.dirty_reason
    ''
    >>> state.observe(["select", 3]); state.dirty_reason
    'SELECT'
    """

    def __init__(self) -> None:
        self._changed = ""
        self._multi = self._watch = False

    @property
    def dirty_reason(self) -> str:
        """What it is not to be handed on with."""
        return self._changed or (
            "MULTI without EXEC" if self._multi else "WATCH without EXEC" if self._watch else ""
        )

    def observe(self, words: Sequence[Word]) -> None:
        """A command that is about to be sent.

        An error in reply may mean that it left nothing: that is not relied upon.
        """
        name, *rest = [*normalized_words(words[:2]), ""]
        if name in ("EXEC", "DISCARD"):
            self._multi = self._watch = False
        elif name == "MULTI":
            self._multi = True
        elif name in ("WATCH", "UNWATCH"):
            self._watch = name == "WATCH"
        elif name in _CHANGES:
            self._changed = name
        elif (name == "CLIENT" and rest[0] not in _CLIENT_CHANGES_NOTHING) or (
            name == "SCRIPT" and rest[0] == "DEBUG"
        ):
            self._changed = f"{name} {rest[0]}"


def blocking_seconds(words: Sequence[Word]) -> float:
    """For how many seconds a command may hold its reply back; inf: for ever; 0: it does not block.

    >>> blocking_seconds(["BLPOP", "k", "1.5"])
    1.5
    >>> blocking_seconds(["BLPOP", "k", 0]), blocking_seconds(["GET", "k"])
    (inf, 0.0)
    >>> blocking_seconds([b"xreadgroup", "group", "block", "streams", "block", b"500", "streams"])
    0.5
    """
    if (
        normalized_words(words[:1])[0] not in _BLOCKING
    ):  # most are not: do not read through their payloads
        return 0.0
    name, *rest = normalized_words(words)
    try:
        if name in _BLOCKS_LAST_S:
            return float(rest[-1]) or float("inf")
        if name in _BLOCKS_FIRST_S:
            return float(rest[0]) or float("inf")
        if name in _BLOCKS_LAST_MS:
            return float(rest[-1]) / 1000 or float("inf")
        return _read_blocks_s(rest)
    except (ValueError, IndexError):
        return 0.0  # a command the server will refuse


def _read_blocks_s(rest: Sequence[str]) -> float:
    """The same for what follows XREAD or XREADGROUP.

    A group, a consumer or a stream may be called BLOCK or STREAMS.
    """
    at = 0
    while rest[at] != "STREAMS":
        if rest[at] == "BLOCK":
            return float(rest[at + 1]) / 1000 or float("inf")
        at += _READ_OPTION_WORDS.get(rest[at], 1)
    return 0.0

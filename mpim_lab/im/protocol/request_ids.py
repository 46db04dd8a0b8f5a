"""What an answer or an error names, so that a client knows what it belongs to."""

from mpim_lab.im.protocol.frames import Group, Members, Send, Sent, Sync


def id_of(frame: object) -> str:
    """A message's own id, "group <name>" for what was asked of a group, "sync <conversation>",
    "" for what nobody waits for.

    >>> id_of(Group("tea", "join")), id_of(Members("tea", ("alice",)))
    ('group tea', 'group tea')
    """
    if isinstance(frame, Group | Members):
        return f"group {frame.group}"
    if isinstance(frame, Sync):
        return f"sync {frame.conversation}"
    return frame.id if isinstance(frame, Send | Sent) else ""

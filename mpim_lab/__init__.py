"""mpim_lab: learn message queues by running one, breaking it, fixing it, and proving the fix."""

from typing import TYPE_CHECKING, Any

from mpim_lab.errors import MpimError
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue

if TYPE_CHECKING:
    from mpim_lab.lab.system.embedded import MpimSystem

__all__ = ["EmbeddedServer", "Message", "MessageQueue", "MpimError", "MpimSystem"]


def __getattr__(name: str) -> Any:
    """MpimSystem is imported when it is asked for: with its database and its web server it takes half a second."""
    if name == "MpimSystem":
        from mpim_lab.lab.system.embedded import MpimSystem

        return MpimSystem
    raise AttributeError(f"module 'mpim_lab' has no attribute {name!r}")

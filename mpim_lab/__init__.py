"""mpim_lab: learn message queues by running one, breaking it, fixing it, and proving the fix."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpim_lab.errors import MpimError
    from mpim_lab.lab.server.embedded import EmbeddedServer
    from mpim_lab.lab.system.embedded import MpimSystem
    from mpim_lab.mq.connection.encoding import Message
    from mpim_lab.mq.pubsub.queue import MessageQueue

__all__ = ["EmbeddedServer", "Message", "MessageQueue", "MpimError", "MpimSystem"]

_MODULES = {
    "EmbeddedServer": "mpim_lab.lab.server.embedded",
    "Message": "mpim_lab.mq.connection.encoding",
    "MessageQueue": "mpim_lab.mq.pubsub.queue",
    "MpimError": "mpim_lab.errors",
    "MpimSystem": "mpim_lab.lab.system.embedded",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: who wants `mpim_lab.errors` gets nothing above it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'mpim_lab' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

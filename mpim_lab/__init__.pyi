from .errors import MpimError
from .lab.server.embedded import EmbeddedServer
from .lab.system.embedded import MpimSystem
from .mq.connection.encoding import Message
from .mq.pubsub.queue import MessageQueue

__all__ = ["EmbeddedServer", "Message", "MessageQueue", "MpimError", "MpimSystem"]

"""mpim_lab: learn message queues by running one, breaking it, mending it, and proving the mend."""

from mpim_lab.errors import MpimError
from mpim_lab.lab.server import EmbeddedServer
from mpim_lab.mq.message import Message
from mpim_lab.mq.pubsub import MessageQueue

__all__ = ["EmbeddedServer", "Message", "MessageQueue", "MpimError"]

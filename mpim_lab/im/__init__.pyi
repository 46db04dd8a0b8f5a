from .client.client import Client
from .gateway.config import GatewayConfig, GatewayServices
from .gateway.gateway import Gateway
from .protocol.requests import ChatMessage, direct_conversation, group_conversation
from .services.groups import GroupService
from .services.message_log import MessageLog
from .services.messages import MessageService
from .services.offline import OfflineStore
from .services.outbox import OutboxWorker
from .services.presence import Presence
from .services.tokens import TokenService, new_secret
from .system import ImSystem

__all__ = [
    "ChatMessage",
    "Client",
    "Gateway",
    "GatewayConfig",
    "GatewayServices",
    "GroupService",
    "ImSystem",
    "MessageLog",
    "MessageService",
    "OfflineStore",
    "OutboxWorker",
    "Presence",
    "TokenService",
    "direct_conversation",
    "group_conversation",
    "new_secret",
]

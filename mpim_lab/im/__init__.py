"""The instant-messaging system: all that a user needs.

The names, and where each is defined: `__init__.pyi`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

"""The laboratory: all that an experiment stands on.

The names, and where each is defined: `__init__.pyi`.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

"""mpim_lab: learn message queues by running one, breaking it, fixing it, and proving the fix.

What it exports, and where it is defined: `__init__.pyi`. It is imported when it is asked for:
`mpim_lab.errors` imports nothing above it.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

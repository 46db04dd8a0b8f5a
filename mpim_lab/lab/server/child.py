"""Child: how a process that runs a module of this package is started, wherever we are."""

import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[3])


def child_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Give the command that runs a module. -P.

    A learner's `queue.py` in the working directory is not taken for Python's.
    """
    return (sys.executable, "-P", "-m", module, *arguments)


def child_environment(**settings: str) -> dict[str, str]:
    """Give the environment in which it finds what we have found.

    Our own module path, but for the working directory.
    """
    places = dict.fromkeys([*(os.path.abspath(place) for place in sys.path if place), _ROOT])
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)} | settings

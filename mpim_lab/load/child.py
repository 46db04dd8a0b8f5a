"""Child: how a process of the load runs."""

import sys
import traceback
from collections.abc import Coroutine
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.lab.server.process_guard import end_with_parent
from mpim_lab.terminal import first_error


def run_child(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where the platform has it; on an error, end with its last lines and status 1.

    An error of ours says all in its text.
    """
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run  # type: ignore[assignment]
    end_with_parent()
    try:
        run(work)
    except Exception as error:
        first = first_error(error)  # tasks and clients fail alike
        if isinstance(first, MpimError):
            print(f"{type(first).__name__}: {first}", file=sys.stderr)
        else:
            traceback.print_exception(first)
        sys.exit(1)

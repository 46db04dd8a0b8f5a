"""Periodic work: it runs for as long as its owner lives, whatever happens in one round."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mpim_lab.errors import MpimError
from mpim_lab.mq.connection.handler import TaskCancellation

_log = logging.getLogger(__name__)


async def run_periodically(
    name: str, work: Callable[[], Awaitable[object]], interval_s: float
) -> None:
    """Run `work` every `interval_s` until this task is cancelled.

    An error in one round does not prevent the next.

    | a round ...                                  | then                                |
    |----------------------------------------------|-------------------------------------|
    | raises one of our errors                     | it is noted: the server is away     |
    | raises anything else                         | it is logged with its trace         |
    | meets a CancelledError of another task       | the same: nobody has cancelled this |
    | is under way when this task is cancelled     | the end                             |
    """
    cancellations = TaskCancellation()
    while True:
        await asyncio.sleep(interval_s)
        try:
            await work()
        except MpimError as error:
            _log.info("%s: held up: %s", name, error)
        except (Exception, asyncio.CancelledError):
            if cancellations.was_requested:
                raise
            _log.exception("%s goes on", name)

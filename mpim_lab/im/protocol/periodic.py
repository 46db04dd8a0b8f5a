"""Rounds: work that is done now and then for as long as its owner lives, whatever befalls one of its turns."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mpim_lab.errors import MpimError
from mpim_lab.mq.connection.handler import TaskCancellation

_log = logging.getLogger(__name__)


async def go_round(name: str, work: Callable[[], Awaitable[object]], every_s: float) -> None:
    """Do `work` every `every_s` until this task is cancelled; what one turn raises does not keep the next from coming.

    | a turn ...                                   | then                                |
    |----------------------------------------------|-------------------------------------|
    | raises one of our errors                     | it is noted: the server is away     |
    | raises anything else                         | it is logged with its trace         |
    | meets a CancelledError of another task       | the same: nobody has cancelled this |
    | is under way when this task is cancelled     | the end                             |
    """
    cancellations = TaskCancellation()
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
        except MpimError as error:
            _log.info("%s: held up: %s", name, error)
        except (Exception, asyncio.CancelledError):
            if cancellations.was_requested:
                raise
            _log.exception("%s goes on", name)

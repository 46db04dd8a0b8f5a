"""PendingScan: through a group's pending list to its end, page by page."""

from collections.abc import Container

from mpim_lab.keys import Name
from mpim_lab.mq.streams.group import ConsumerGroup, PendingEntry

PAGE = 100


class PendingScan:
    """A scan of what is pending, of one consumer or of all, which begins anew at its end.

    One page is not the whole: what is in flight already does not hide what stands behind it in the
    list.
    """

    def __init__(self, group: ConsumerGroup, *, idle_ms: int, owner: Name | None) -> None:
        self.idle_ms, self.at_end = idle_ms, False
        self._group, self._owner, self._from = group, owner, "-"

    async def next_page(self, max_entries: int, *, exclude: Container[bytes]) -> list[PendingEntry]:
        """The next ones that are not in `exclude`, at most `max_entries`.

        Nothing at all only at the end of the list.
        """
        while True:
            lines = await self._group.pending(
                count=PAGE, idle_ms=self.idle_ms, consumer=self._owner, first=self._from
            )
            found = [line for line in lines if line.id.encode() not in exclude]
            self.at_end = len(lines) < PAGE and len(found) <= max_entries
            self._from = (
                "-"
                if self.at_end
                else f"({(found[max_entries - 1] if len(found) > max_entries else lines[-1]).id}"
            )
            if found or self.at_end:
                return found[:max_entries]

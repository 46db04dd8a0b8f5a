"""PendingScan: through a group's pending list to its end, page by page, for what nobody here works on."""

from collections.abc import Container

from mpim_lab.keys import Name
from mpim_lab.mq.streams.group import ConsumerGroup, Pending

PAGE = 100


class PendingScan:
    """Goes through what is pending, of one consumer or of all, and begins anew when it has reached the end.

    One page is not the whole: what is in flight already does not hide what stands behind it in the list.
    """

    def __init__(self, group: ConsumerGroup, *, idle_ms: int, of: Name | None) -> None:
        self.idle_ms, self.at_end = idle_ms, False
        self._group, self._of, self._from = group, of, "-"

    async def next(self, most: int, *, but: Container[bytes]) -> list[Pending]:
        """The next ones that are not in `but`, at most `most`; nothing at all only at the end of the list."""
        while True:
            lines = await self._group.pending(count=PAGE, idle_ms=self.idle_ms, consumer=self._of, first=self._from)
            found = [line for line in lines if line.id.encode() not in but]
            self.at_end = len(lines) < PAGE and len(found) <= most
            self._from = "-" if self.at_end else f"({(found[most - 1] if len(found) > most else lines[-1]).id}"
            if found or self.at_end:
                return found[:most]

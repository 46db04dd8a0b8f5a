"""Deadlines: which commands have waited too long, at no cost per command."""

from collections import deque


class Deadlines:
    """Time-outs for commands that are answered in order, without a timer or a clock reading each.

    Now and then note how many commands have been issued in all. When a note is `timeout_s` old, whatever was issued
    before it and is unanswered is overdue. Precise to the interval between two notes.

        >>> deadlines = Deadlines(timeout_s=5.0)
        >>> deadlines.note(now=100.0, issued=7)
        >>> deadlines.overdue(now=104.0, answered=3)
        0
        >>> deadlines.overdue(now=105.0, answered=3), deadlines.overdue(now=105.1, answered=6)
        (4, 1)
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._notes: deque[tuple[float, int]] = deque()
        self._expired = 0  # so many have been issued for longer than the time-out

    def note(self, now: float, issued: int) -> None:
        """Remember that `issued` commands have been issued by `now` (seconds)."""
        self._notes.append((now, issued))

    def overdue(self, now: float, answered: int) -> int:
        """How many of the oldest unanswered commands are overdue."""
        while self._notes and now - self._notes[0][0] >= self._timeout_s:
            self._expired = self._notes.popleft()[1]
        return max(0, self._expired - answered)

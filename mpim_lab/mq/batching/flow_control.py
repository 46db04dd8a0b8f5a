"""CreditWindow: how much may be in flight to receivers that have not acknowledged it.

A plain object; time is passed in.

The server hands a published batch over as fast as it comes and keeps what a receiver does not read,
until it cuts that receiver off (`client-output-buffer-limit pubsub`). A sender that is faster than
a receiver must therefore be held back by the receiver itself. This is credit-based flow control:
AMQP's link credit (OASIS AMQP 1.0, 2.6.7), TCP's window.
"""

from collections import deque

from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times


class CreditWindow:
    """A credit window of about `max_bytes` unacknowledged.

    Who is silent for `stall_timeout_s` is no longer waited for.

    The slowest receiver counts. One that never acknowledges (a plain client) is not known here and
    not waited for; where nobody acknowledges, the sender is held back once for `stall_timeout_s`,
    and then goes on until somebody does.

        >>> credit = CreditWindow(max_bytes=100, stall_timeout_s=1.0)
        >>> credit.sent(1, 60, at=0.0), credit.sent(2, 60, at=0.0), credit.has_credit(at=0.1)
        (None, None, False)
        >>> credit.acked(b"bob", 1, at=0.1), credit.has_credit(at=0.1), credit.unacked_bytes
        (None, True, 60)
    """

    def __init__(self, max_bytes: int = 512 * 1024, stall_timeout_s: float = 0.5) -> None:
        check_bounds(1, MAX_INT, max_bytes=max_bytes)
        check_times(stall_timeout_s=stall_timeout_s)
        self.max_bytes, self.stall_timeout_s = max_bytes, stall_timeout_s
        self.unacked_bytes = 0
        # number, bytes; those not acknowledged by everybody
        self._batches: deque[tuple[int, int]] = deque()
        self._receivers: dict[
            bytes, tuple[int, float]
        ] = {}  # the last number it acknowledged, and when
        self._waiting_since = 0.0  # since when the oldest batch waits, or the last news came
        self._disabled = False

    def sent(self, number: int, size: int, at: float) -> None:
        """Record that a batch is sent; numbers grow."""
        if not self._batches:
            self._waiting_since = at
        self._batches.append((number, size))
        self.unacked_bytes += size

    def no_receivers(self, number: int) -> None:
        """Record that the server handed this batch, the last one, to nobody.

        There is nobody to wait for.
        """
        self._receivers.clear()
        self._release(number)

    def acked(self, receiver: bytes, number: int, at: float) -> None:
        """Record that a receiver acknowledges everything up to `number`."""
        self._disabled = False
        last, _ = self._receivers.get(receiver, (0, at))
        self._receivers[receiver] = (max(last, number), at)
        self._waiting_since = at
        self._release(min(last for last, _ in self._receivers.values()))

    def has_credit(self, at: float) -> bool:
        """Return whether another batch may be sent now."""
        if self._disabled or self.unacked_bytes < self.max_bytes:
            return True
        return self._expire_silent(at)

    def stall_deadline(self) -> float:
        """Return when to ask again if nothing is acknowledged until then."""
        last_acks = [
            acked_at
            for last, acked_at in self._receivers.values()
            if self._batches and last < self._batches[0][0]
        ]
        return max(self._waiting_since, min(last_acks, default=0.0)) + self.stall_timeout_s

    def _expire_silent(self, at: float) -> bool:
        """Wait no longer for silent receivers, once their time is over."""
        while self.unacked_bytes >= self.max_bytes:
            if at < self.stall_deadline():
                return False
            oldest = self._batches[0][0]
            self._receivers = {
                name: seen for name, seen in self._receivers.items() if seen[0] >= oldest
            }
            if self._receivers:
                self._release(min(last for last, _ in self._receivers.values()))
            else:
                self._release(self._batches[-1][0])
                self._disabled = True
        return True

    def _release(self, number: int) -> None:
        while self._batches and self._batches[0][0] <= number:
            self.unacked_bytes -= self._batches.popleft()[1]

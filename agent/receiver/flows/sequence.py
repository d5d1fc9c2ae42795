"""The numbers that an exporter gives what it sends, and what is missing by them."""

# What lies further away than this is no loss: the exporter has started anew.
_WINDOW = 1 << 16
_RANGE = 1 << 32


class Sequence:
    """Counts what is missing. What comes late is missing no more, as long as nobody has asked.

    The number of a datagram is that of its first unit. Some exporters of IPFIX state that after its last
    one instead; which of the two it is shows as soon as two datagrams follow one another.
    """

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._after = False
        self._missing = 0

    def saw(self, number: int, units: int) -> None:
        """`units` came under this number."""
        if self._last is None:
            self._last = number, units
            return
        last, last_units = self._last
        if number == (last + last_units) % _RANGE:
            self._after = False
        elif (number - units) % _RANGE == last:
            self._after = True
        first, expected = (number - units, last) if self._after else (number, last + last_units)
        ahead = (first - expected + _RANGE // 2) % _RANGE - _RANGE // 2
        if 0 <= ahead <= _WINDOW:
            self._missing += ahead
        elif -_WINDOW <= ahead < 0 and self._missing:
            self._missing = max(0, self._missing - units)
            return
        self._last = number, units

    def lost_track(self) -> None:
        """Something came whose units nobody can count: what follows is counted from there."""
        self._last = None

    def take(self) -> int:
        """What has been missing since the last time."""
        missing, self._missing = self._missing, 0
        return missing

"""Whether this service hears: only who listens without lag may call others silent."""

from services.analysis.clock import SECOND

# A batch that comes later than this after its receipt shows that the product is being caught up.
LAG = 30 * SECOND
# So long without any batch at all is our own deafness: every process of the mesh tells of itself every few
# seconds. Shorter than any promise, so that whoever is deaf knows it before calling anybody silent.
DEAF = 45 * SECOND


class Hearing:
    """Since when each product has been heard without lag. In memory: a new process starts to listen anew."""

    def __init__(self) -> None:
        self._since: dict[str, int] = {}
        self._last = 0
        self._started = 0

    def heard(self, product: str, received: int, now: int) -> None:
        """A batch of a product came now that its domain received then."""
        if now - self._last > DEAF:
            self._started = now
            self._since.clear()
        self._last = now
        if now - received > LAG:
            self._since[product] = now

    def deaf(self, now: int) -> bool:
        """Whether nothing came for so long that silence means nothing."""
        return now - self._last > DEAF

    def since(self, product: str) -> int:
        """Since when the product has been heard without lag; meaningful unless deaf."""
        return max(self._started, self._since.get(product, 0))

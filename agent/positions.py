"""Where the collectors of growing files left off, on disk, so that a restart neither skips nor repeats."""

from pathlib import Path


class Positions:
    """One text for each product, in a file of its own below `directory`; kept in memory only without one."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._texts: dict[str, str] = {}
        self._saved: dict[str, str] = {}

    def get(self, product: str) -> str | None:
        """Where the product's collector left off; None at its very first start."""
        if product not in self._texts and self._directory is not None:
            try:
                self._texts[product] = self._saved[product] = (self._directory / product).read_text()
            except FileNotFoundError:
                return None
        return self._texts.get(product)

    def set(self, product: str, position: str) -> None:
        """Remembers where the collector stands; durable after the runner has handed the records on."""
        self._texts[product] = position

    def save(self, product: str) -> None:
        """Writes the product's position when it has moved. Blocks on the disk."""
        text = self._texts.get(product)
        if self._directory is None or text is None or self._saved.get(product) == text:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        scratch = self._directory / f".{product}.new"
        scratch.write_text(text)
        scratch.replace(self._directory / product)
        self._saved[product] = text

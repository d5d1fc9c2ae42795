"""Follows every chain that a consumer reads: what is next, seen, missing or forked."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.seal.chain import Head, Link, Range, follow, missing_before

# Chains of 10,000 sources with 50 products each. Beyond it the longest silent one starts anew.
_MOST_CHAINS = 500_000


@dataclass(frozen=True)
class KnownChain:
    """A chain as a consumer remembers it between two runs."""

    product: str
    source: str
    head: Head
    after_gap: bool = False


@dataclass(frozen=True)
class Place:
    """Where a batch stands in its chain."""

    link: Link
    missing: tuple[Range, ...]
    after_gap: bool


class Chains:
    """The heads of all chains, in memory; the consumer keeps them over restarts with its cursor."""

    def __init__(self, known: Iterable[KnownChain] = ()) -> None:
        self._heads: OrderedDict[tuple[str, str], Head] = OrderedDict()
        self._gapped: dict[str, set[str]] = {}
        for chain in known:
            self._heads[chain.product, chain.source] = chain.head
            if chain.after_gap:
                self._gapped.setdefault(chain.product, set()).add(chain.source)

    def place(self, header: Header, header_sha256: bytes) -> Place:
        """Places a batch whose signature holds, and moves the head when the batch follows it."""
        key = (header.product, header.source)
        head = self._heads.get(key)
        link = follow(head, header, header_sha256)
        if link is not Link.NEXT:
            return Place(link, (), False)
        gapped = self._gapped.get(header.product, set())
        after_gap = header.source in gapped
        gapped.discard(header.source)
        self._heads[key] = Head(header.epoch, header.sequence, header_sha256)
        self._heads.move_to_end(key)
        if len(self._heads) > _MOST_CHAINS:
            self._heads.popitem(last=False)
        return Place(link, missing_before(head, header), after_gap)

    def gap(self, product: str) -> None:
        """A gap of a product was announced: each of its chains may skip once."""
        self._gapped[product] = {source for name, source in self._heads if name == product}

"""How many streams and routed calls there may be at once, in all and of one identity."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from gateway import metrics
from gateway.decisions import ADMIT, Decisions
from telltale.errors import LimitExceeded
from telltale.naming import SpiffeId


class Admission:
    """Counts what runs; together with the bound on one stream's memory this bounds the gateway's."""

    def __init__(self, in_all: int, per_caller: int, decisions: Decisions) -> None:
        self._in_all = in_all
        self._per_caller = per_caller
        self._decisions = decisions
        self._running: Counter[SpiffeId] = Counter()

    @contextlib.contextmanager
    def admit(self, peer: SpiffeId) -> Iterator[None]:
        """Counts one stream while the body runs; raises LimitExceeded instead when there are too many."""
        try:
            self._require_room(peer)
        except LimitExceeded as refused:
            metrics.REFUSALS.add(1, {"kind": "streams"})
            self._decisions.denied(ADMIT, refused)
            raise
        self._decisions.allowed(ADMIT, "within the limits of this gateway")
        self._running[peer] += 1
        try:
            yield
        finally:
            self._running[peer] -= 1
            if not self._running[peer]:
                del self._running[peer]

    def _require_room(self, peer: SpiffeId) -> None:
        if self._running[peer] >= self._per_caller:
            raise LimitExceeded(
                "max_streams_per_caller",
                f"{peer} has {self._per_caller} streams and calls at this gateway; end some of them first",
            )
        if self._running.total() >= self._in_all:
            raise LimitExceeded(
                "max_streams",
                f"this gateway serves {self._in_all} streams and calls, its most; try again later",
            )

"""How many calls one caller has at once, so that nobody takes a server's calls from all others."""

import asyncio
from collections import Counter
from dataclasses import dataclass

from telltale.audit import neighbourhood_of
from telltale.errors import LimitExceeded
from telltale.rpc.auth import Caller, Context

# Calls of all callers. Each holds a task and some KiB.
MOST_CALLS = 20_000


@dataclass(frozen=True)
class Bounds:
    """What one caller may take of a server."""

    # Calls at once of one identity; at a port for strangers, of one address.
    per_caller: int
    # Calls at once of an identity that speaks for others; those for one of them keep to `per_caller` too.
    per_forwarder: int
    # Seconds for the request of a call that takes one, once the call is open.
    first_message: float

    @property
    def largest(self) -> int:
        """Calls of the caller that may have most."""
        return max(self.per_caller, self.per_forwarder)


# A gateway that forwards 100 calls of one caller, and the streams of a collector host with all its products,
# are well below the first; a gateway reads every product and forwards 2,000 calls, which is below the second,
# and leaves half of the server to all others. The slowest link worth serving brings 8 MiB in that time.
MEMBERS = Bounds(per_caller=250, per_forwarder=MOST_CALLS // 2, first_message=60.0)
# One call at a time is what a newcomer needs, of some KiB; a rack of them may stand behind one address.
STRANGERS = Bounds(per_caller=64, per_forwarder=0, first_message=10.0)


class Calls:
    """Counts the calls that are at work, by who made them."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._running: Counter[str] = Counter()

    def admit(self, known: Caller) -> None:
        """Counts the running call for its caller until its task ends; raises LimitExceeded."""
        if known.principal != known.peer:
            self._require_room(f"{known.principal} by {known.peer}", self._bounds.per_caller)
        most = self._bounds.per_forwarder if known.forwarder else self._bounds.per_caller
        self._require_room(str(known.peer), most)
        self._count(str(known.peer))
        if known.principal != known.peer:
            self._count(f"{known.principal} by {known.peer}")

    def admit_unknown(self, context: Context) -> None:
        """The same for a call that nobody authenticates, such as a stranger's or a probe's."""
        # The handshake has checked the certificate: who shares an address does not share the bound.
        uris = context.auth_context().get("peer_uri", ())
        who = b" and ".join(uris).decode("ascii", "replace") or neighbourhood_of(context.peer())
        # Apart from the calls that it proves itself for: a busy caller can still be probed.
        self._require_room(f"{who} without a token", self._bounds.per_caller)
        self._count(f"{who} without a token")

    def _require_room(self, who: str, most: int) -> None:
        if self._running[who] >= most:
            raise LimitExceeded(
                "calls_per_caller",
                f"{who} has {most} calls open at this server, the most of one caller; end some of them first",
            )

    def _count(self, who: str) -> None:
        self._running[who] += 1
        # The task, not the handler: it goes on while a peer does not take the answer.
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: self._end(who))

    def _end(self, who: str) -> None:
        self._running[who] -= 1
        if not self._running[who]:
            del self._running[who]

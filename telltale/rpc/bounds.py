"""How many calls one caller has at once, so that nobody takes a server's calls from all others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from telltale.audit import neighbourhood_of
from telltale.errors import LimitExceeded
from telltale.identity.dialling import LARGEST_MESSAGE
from telltale.rpc.auth import Caller, Context

# Calls of all callers. Each holds a task and some KiB.
MOST_CALLS = 20_000
# What newcomers and members ask of an authority: the longest is an ID token of 32 KiB, and a signing request.
LARGEST_QUESTION = 64 * 1024


@dataclass(frozen=True)
class Bounds:
    """What one caller may take of a server."""

    # Calls at once of one identity; at a port for strangers, of one address.
    per_caller: int
    # Calls at once of an identity that speaks for others; those for one of them keep to `per_caller` too.
    per_forwarder: int
    # Seconds for the request of a call that takes one, once the call is open.
    first_message: float
    # Calls of one caller whose request is being read at once: as many may hold a message that does not end.
    # Those above wait for their turn, and the wire for them.
    reading_per_caller: int = 8
    # The same of an identity that speaks for others, over all of them.
    reading_per_forwarder: int = 64
    # Bytes of one message to this server.
    message: int = LARGEST_MESSAGE

    @property
    def largest(self) -> int:
        """Calls of the caller that may have most."""
        return max(self.per_caller, self.per_forwarder)


# A gateway that forwards 100 calls of one caller, and the streams of a collector host with all its products,
# are well below the first; a gateway reads every product and forwards 2,000 calls, which is below the second,
# and leaves half of the server to all others. The slowest link worth serving brings 8 MiB in that time.
MEMBERS = Bounds(per_caller=250, per_forwarder=MOST_CALLS // 2, first_message=60.0)
# One call at a time is what a newcomer needs, of some KiB; a rack of them may stand behind one address.
# None waits for the requests of its neighbours: so small they need no turns.
STRANGERS = Bounds(
    per_caller=64, per_forwarder=0, first_message=10.0, reading_per_caller=64, message=LARGEST_QUESTION
)

# What bounds the reading of the running call: the turns of its caller, and of who forwards it.
_turns: ContextVar[tuple[asyncio.Semaphore, ...]] = ContextVar("turns", default=())


@asynccontextmanager
async def turn() -> AsyncIterator[None]:
    """Waits until the running call may read its request, and holds its turn while the body reads."""
    async with AsyncExitStack() as held:
        for turns in _turns.get():
            await held.enter_async_context(turns)
        yield


class Calls:
    """Counts the calls that are at work, by who made them, and gives out the turns of those that read."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._running: Counter[str] = Counter()
        # Of those that run.
        self._reading: dict[str, asyncio.Semaphore] = {}

    def admit(self, known: Caller) -> None:
        """Counts the running call for its caller until its task ends; raises LimitExceeded."""
        bounds, peer = self._bounds, str(known.peer)
        behalf = f"{known.principal} by {peer}" if known.principal != known.peer else None
        if behalf is not None:
            self._require_room(behalf, bounds.per_caller)
        self._require_room(peer, bounds.per_forwarder if known.forwarder else bounds.per_caller)
        reading = bounds.reading_per_forwarder if known.forwarder else bounds.reading_per_caller
        turns = self._count(peer, reading)
        # The caller's own turn first: who waits for it takes none of the forwarder's.
        _turns.set((turns,) if behalf is None else (self._count(behalf, bounds.reading_per_caller), turns))

    def admit_unknown(self, context: Context) -> None:
        """The same for a call that nobody authenticates, such as a stranger's or a probe's."""
        # The handshake has checked the certificate: who shares an address does not share the bound.
        uris = context.auth_context().get("peer_uri", ())
        who = b" and ".join(uris).decode("ascii", "replace") or neighbourhood_of(context.peer())
        # Apart from the calls that it proves itself for: a busy caller can still be probed.
        self._require_room(f"{who} without a token", self._bounds.per_caller)
        _turns.set((self._count(f"{who} without a token", self._bounds.reading_per_caller),))

    def _require_room(self, who: str, most: int) -> None:
        if self._running[who] >= most:
            raise LimitExceeded(
                "calls_per_caller",
                f"{who} has {most} calls open at this server, the most of one caller; end some of them first",
            )

    def _count(self, who: str, reading: int) -> asyncio.Semaphore:
        """Counts one more, until its task ends; returns the turns to read, of which there are so many."""
        self._running[who] += 1
        # The task, not the handler: it goes on while a peer does not take the answer.
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: self._end(who))
        return self._reading.setdefault(who, asyncio.Semaphore(reading))

    def _end(self, who: str) -> None:
        self._running[who] -= 1
        if not self._running[who]:
            del self._running[who], self._reading[who]

"""One subscriber's stream over any number of products: fair turns, and the owners' permission for each.

Products that appear later join in, those that the subscriber may no longer read leave, and each goes on
where it stopped when it comes back.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Self

from gateway import metrics
from gateway.access import Access, Decision
from gateway.catalog import Catalog
from gateway.fanout import Follower, Subscriber
from telltale import naming
from telltale.api.mesh.v1.access_pb2 import ACTION_SUBSCRIBE
from telltale.api.mesh.v1.batch_pb2 import Position
from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.errors import InvalidInput, NotFound, PermissionMissing, Unavailable
from telltale.rpc.auth import Caller

# How often the owners are asked whether the subscriber may still read.
CHECK_SECONDS = 60.0
# How soon those are asked again who did not answer.
_RETRY_SECONDS = 2.0
_MAX_POSITIONS = 10_000
# Owners that one refusal quotes: it travels in a trailer, whose size is bounded.
_QUOTED = 3


class Denied(PermissionMissing):
    """The owners' refusal, in their own words where they gave some."""

    def __init__(self, principal: str, products: Sequence[str], words: Sequence[str]) -> None:
        super().__init__(principal, "subscribe", ", ".join(products))
        if words:
            self.args = (f"{self}: {'; '.join(words[:_QUOTED])}",)


class Subscription:
    """What one caller reads: names and patterns of products, from a cursor on.

    Use as `async with`: in the body the owners have permitted it. Raises TelltaleError when it has to end.
    """

    def __init__(
        self,
        catalog: Catalog,
        access: Access,
        caller: Caller,
        products: Sequence[str],
        cursor: Sequence[Position],
        start: Start,
    ) -> None:
        if len(cursor) > _MAX_POSITIONS:
            raise InvalidInput(f"the cursor has {len(cursor)} positions; at most {_MAX_POSITIONS} are taken")
        self._catalog = catalog
        self._access = access
        self._caller = caller
        self._patterns = tuple(naming.check_pattern(product) for product in products)
        self._named = [pattern for pattern in self._patterns if "*" not in pattern]
        self._start = start
        # Where to go on with products that are not followed now.
        self._cursors: dict[str, list[Position]] = {}
        for position in cursor:
            self._cursors.setdefault(position.product, []).append(position)
        self._subscriber = Subscriber()
        self._followers: dict[str, Follower] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        # Set when products appear or go.
        self._changed = asyncio.Event()
        self._checks: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._catalog.watch(self._changed)
        try:
            answered = await self._check()
        except BaseException:
            await self._end()
            raise
        self._checks = asyncio.create_task(self._keep_checking(answered), name="access checks")
        self._checks.add_done_callback(self._woken)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._end()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Frames of all products, in turns."""
        while True:
            self._subscriber.wake.clear()
            for task in self._tasks():
                if task.done():
                    # None ends by itself: this raises what ended it.
                    task.result()
            took = False
            for follower in tuple(self._followers.values()):
                frame = follower.take()
                if frame is not None:
                    took = True
                    yield frame
            if not took:
                await self._subscriber.wake.wait()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*([self._checks] if self._checks else []), *self._runs.values()]

    async def _end(self) -> None:
        self._catalog.unwatch(self._changed)
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_checking(self, answered: bool) -> None:
        while True:
            try:
                async with asyncio.timeout(CHECK_SECONDS if answered else _RETRY_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            answered = await self._check()

    async def _check(self) -> bool:
        """Follows what the owners permit and nothing else; False when an owner did not answer."""
        feeds = self._catalog.feeds
        wanted = [product for product in feeds if naming.matches(product, self._patterns)]
        decisions = await self._access.decide(self._caller, ACTION_SUBSCRIBE, wanted)
        for product, follower in tuple(self._followers.items()):
            permitted = decisions.get(product) is Decision.ALLOWED
            if not permitted or follower.feed is not self._catalog.feeds.get(product):
                await self._leave(product)
        for product, decision in decisions.items():
            if decision is Decision.ALLOWED and product not in self._followers:
                self._follow(product)
        if self._named and not any(product in self._followers for product in self._named):
            metrics.REFUSALS.add(1, {"kind": "subscription"})
            raise self._refusal(decisions)
        return Decision.NO_ANSWER not in decisions.values()

    def _follow(self, product: str) -> None:
        feed, owner = self._catalog.feeds.get(product), self._catalog.owner(product)
        if feed is None or owner is None:
            return
        follower = Follower(feed, self._subscriber, owner.turns, self._cursors.pop(product, ()), self._start)
        run = asyncio.create_task(follower.run(), name=f"follow {product}")
        run.add_done_callback(self._woken)
        self._followers[product], self._runs[product] = follower, run

    async def _leave(self, product: str) -> None:
        follower, run = self._followers.pop(product), self._runs.pop(product)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        self._cursors[product] = follower.cursor

    def _woken(self, _: "asyncio.Task[None]") -> None:
        self._subscriber.wake.set()

    def _refusal(self, decisions: Mapping[str, Decision]) -> Exception:
        denied = [product for product in self._named if decisions.get(product) is Decision.DENIED]
        if denied:
            words = [self._access.reason(self._caller, ACTION_SUBSCRIBE, product) for product in denied]
            return Denied(str(self._caller.principal), denied, [word for word in words if word])
        silent = [product for product in self._named if decisions.get(product) is Decision.NO_ANSWER]
        if silent:
            return Unavailable(f"the owner of {', '.join(silent)} does not answer; resume from the cursor")
        return missing(self._catalog, self._named)


def missing(catalog: Catalog, products: Iterable[str]) -> NotFound | Unavailable:
    """What to say of products that nobody offers: soon after a start they may not have registered yet."""
    names = ", ".join(products)
    if catalog.settled:
        return NotFound(f"no domain offers {names}; the catalog lists what there is")
    return Unavailable(f"no domain has offered {names} since this gateway started; try again in a moment")

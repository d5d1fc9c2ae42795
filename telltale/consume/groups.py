"""Gathers what a subscription yields, so that a transaction holds much and there are few of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from telltale.consume.delivered import Delivered, Item


async def groups(
    stream: AsyncIterator[list[Item]], seconds: float, most_bytes: int, stopping: asyncio.Event | None = None
) -> AsyncGenerator[list[Item], None]:
    """Yields items once the first of them has waited so long or so many bytes of payload have come.

    What arrives while a group is dealt with has waited for that time already. Ends when `stopping` is set,
    after what had arrived by then. Use it within `aclosing`.
    """
    stopped = asyncio.create_task((stopping or asyncio.Event()).wait())
    arriving = asyncio.create_task(_next(stream))
    loop = asyncio.get_running_loop()
    try:
        ending = False
        while not ending:
            # What has come by now is the last.
            ending = stopped.done()
            group: list[Item] = []
            size = 0
            due: float | None = None
            while size < most_bytes and (not stopped.done() or _has_come(arriving)):
                timeout = None if due is None else max(0.0, due - loop.time())
                await asyncio.wait((arriving, stopped), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if arriving.done():
                    came, items = arriving.result()
                    # Goes on while the group is dealt with, so that it is known when the next one came.
                    arriving = asyncio.create_task(_next(stream))
                    group += items
                    size += sum(_size(item) for item in items)
                    due = due if due is not None else came + seconds
                elif due is not None and loop.time() >= due:
                    break
            if group:
                yield group
    finally:
        stopped.cancel()
        arriving.cancel()
        await asyncio.gather(arriving, return_exceptions=True)


async def _next(stream: AsyncIterator[list[Item]]) -> tuple[float, list[Item]]:
    items = await anext(stream)
    return asyncio.get_running_loop().time(), items


def _has_come(arriving: "asyncio.Task[tuple[float, list[Item]]]") -> bool:
    return arriving.done() and arriving.exception() is None


def _size(item: Item) -> int:
    return item.batch.ByteSize() if isinstance(item, Delivered) else 0

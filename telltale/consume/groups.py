"""Gathers what a subscription yields, so that a transaction holds much and there are few of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from telltale.consume.delivered import Delivered, Item


async def groups(
    stream: AsyncIterator[list[Item]], seconds: float, most_bytes: int, stopping: asyncio.Event | None = None
) -> AsyncGenerator[list[Item], None]:
    """Yields items once the first of them has waited so long or so many bytes of payload have come.

    Ends when `stopping` is set, after what had arrived by then. Use it within `aclosing`.
    """
    stopped = asyncio.create_task((stopping or asyncio.Event()).wait())
    arriving: asyncio.Task[list[Item]] | None = None
    loop = asyncio.get_running_loop()
    try:
        while not stopped.done():
            group: list[Item] = []
            size = 0
            due: float | None = None
            while size < most_bytes and not stopped.done():
                arriving = arriving or asyncio.create_task(_next(stream))
                timeout = None if due is None else max(0.0, due - loop.time())
                await asyncio.wait((arriving, stopped), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if arriving.done():
                    items, arriving = arriving.result(), None
                    group += items
                    size += sum(_size(item) for item in items)
                    due = due if due is not None else loop.time() + seconds
                elif due is not None and loop.time() >= due:
                    break
            if group:
                yield group
    finally:
        stopped.cancel()
        if arriving is not None:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)


async def _next(stream: AsyncIterator[list[Item]]) -> list[Item]:
    return await anext(stream)


def _size(item: Item) -> int:
    return item.batch.ByteSize() if isinstance(item, Delivered) else 0

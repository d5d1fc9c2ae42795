import asyncio
import os
import threading
from contextlib import aclosing

import pytest
from google.protobuf.message import Message

from agent.kernel.tap import bursts
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_BOUND, Loss


class Pipe:
    """A tap whose kernel is the test: each byte is a record."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.looks = 0
        self.failure: Exception | None = None

    def fileno(self) -> int:
        return self.read_end

    def read(self) -> list[Message]:
        return [Loss(records=number) for number in os.read(self.read_end, 4096)]

    def look(self) -> list[Message]:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        return []

    def tell(self, *numbers: int) -> None:
        os.write(self.write_end, bytes(numbers))

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


async def test_what_is_told_arrives_in_order_and_whole(pipe: Pipe) -> None:
    pipe.tell(*range(10))
    seen: list[int] = []
    async with aclosing(bursts(pipe, 60, linger=0)) as told:
        async for burst in told:
            seen += [record.records for record in burst]
            if len(seen) == 10:
                pipe.tell(*range(10, 20))
            if len(seen) == 20:
                break
    assert seen == list(range(20))


async def test_the_interval_s_look_happens_without_anything_told(pipe: Pipe) -> None:
    pipe.failure = OSError("gone")
    with pytest.raises(OSError, match="gone"):
        async with aclosing(bursts(pipe, 60, linger=0)) as told:
            async for _ in told:
                pass
    assert pipe.looks == 1


async def test_what_finds_no_room_is_counted(pipe: Pipe) -> None:
    pipe.tell(*range(10))
    async with aclosing(bursts(pipe, 60, capacity=4, linger=0)) as told:
        burst = await anext(told)
    assert [record.records for record in burst[:4]] == [0, 1, 2, 3]
    assert burst[4].reason == LOSS_REASON_BOUND and burst[4].records == 6


async def test_the_thread_ends_with_its_reader(pipe: Pipe) -> None:
    async def listen() -> None:
        async with aclosing(bursts(pipe, 60, linger=0)) as told:
            async for _ in told:
                started.set()

    started = asyncio.Event()
    pipe.tell(1)
    task = asyncio.create_task(listen())
    await started.wait()
    assert any(thread.name == "Pipe" for thread in threading.enumerate())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not any(thread.name == "Pipe" for thread in threading.enumerate())

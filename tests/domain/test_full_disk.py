"""A log on a full disk acks what it has, and still reads. Needs root, for a small file system."""

from pathlib import Path

import pytest

from telltale.domain.log import ProductLog
from telltale.errors import Unavailable
from tests.support.disks import filled, small_disk
from tests.support.log_chain import Chain, chain_log, everything

PRODUCT = "servers.disk_usage"


async def test_a_log_on_a_full_disk_acks_what_it_has_and_nothing_else(tmp_path: Path) -> None:
    chain = Chain(product=PRODUCT)
    with small_disk(tmp_path / "disk", "3m") as disk:
        async with chain_log(disk / "log.db") as log:
            known = log.id
            assert await log.append([chain.next(payload=b"x" * 20_000)]) == [None]
            acked = 1
            with filled(disk):
                refused = chain.next(payload=b"x" * 20_000)
                with pytest.raises(Unavailable, match="check the disk's space"):
                    for _ in range(1_000):
                        assert await log.append([refused]) == [None]
                        acked += 1
                        refused = chain.next(payload=b"x" * 20_000)
                assert len(await everything(log, PRODUCT)) == acked
            assert await log.append([refused]) == [None]
        # Also when it was closed with nowhere to write, it is the same log.
        async with ProductLog(disk / "log.db") as log:
            with filled(disk):
                assert len(await everything(log, PRODUCT)) == acked + 1
        async with ProductLog(disk / "log.db") as log:
            assert log.id == known
            assert len(await everything(log, PRODUCT)) == acked + 1

"""The health check of an agent on a full disk. Needs root, for a small file system."""

import json
import time
from pathlib import Path

import pytest

from agent import status_file
from agent.status import AgentStatus, CollectorStatus, SpoolStatus, State
from tests.support.disks import filled, small_disk

NAME = "spiffe://a.example/agent/a"
ENDS = 4_000_000_000.0


def told(reason: str, lost: int) -> AgentStatus:
    one = CollectorStatus("servers.cpu", 15.0, State.DEGRADED, reason, 0, 0.1, 3, 1, 7, lost)
    return AgentStatus({one.product: one}, SpoolStatus(lost=lost))


def test_a_status_on_a_full_disk_says_what_it_costs(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        status_file.write(disk, told("", 0), NAME, None, ENDS)
        with filled(disk):
            # Longer, then shorter than what was there.
            for lost, reason in ((4, "the disk is full" * 20), (5, "")):
                status_file.write(disk, told(reason, lost), NAME, None, ENDS)
                assert json.loads((disk / status_file.NAME).read_text())["lost"] == lost
                assert f"{lost} records lost" in status_file.check(disk, time.time())
            assert sorted(one.name for one in disk.iterdir()) == ["ballast", status_file.NAME]


def test_a_status_that_does_not_fit_on_a_full_disk_leaves_the_last_one_whole(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        status_file.write(disk, told("", 1), NAME, None, ENDS)
        with filled(disk):
            with pytest.raises(OSError, match="No space left"):
                status_file.write(disk, told("x" * 10_000, 2), NAME, None, ENDS)
            assert json.loads((disk / status_file.NAME).read_text())["lost"] == 1

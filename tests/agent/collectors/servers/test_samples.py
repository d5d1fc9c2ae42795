"""The sampled products: parsers against captured text, collectors against another source of truth."""

import itertools
import os
import shutil
import threading
from pathlib import Path

import psutil
import pytest

from agent.collectors import Host
from agent.collectors.servers import cpu, disk_io, disk_usage, memory, network_io
from agent.collectors.servers.agents import Agents
from agent.status import AgentStatus, SpoolStatus
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_FAILURE, Loss
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageRecord

PROC = Path(__file__).parent.parent / "fixtures" / "proc"


def text(name: str) -> str:
    return (PROC / name).read_text()


# ---- cpu ----


def test_processor_time_is_read_by_processor_and_in_sum() -> None:
    times = cpu.parse_stat(text("stat"))
    assert list(times) == ["all", "0", "1"]
    assert times["0"] == cpu.CpuTimes(2599, 3, 1930, 240548, 38, 1, 33, 8)
    assert times["all"].busy == 18366 + 7 + 6312 + 3 + 314 + 17


def test_the_load_is_read() -> None:
    assert cpu.parse_loadavg(text("loadavg")) == (0.21, 0.37, 0.39)


def test_busy_is_the_share_of_ticks_between_two_readings() -> None:
    before = cpu.CpuTimes(100, 0, 100, 800, 0, 0, 0, 0)
    assert cpu.busy_ratio(before, before._replace(user=130, idle=850, iowait=20)) == pytest.approx(0.3)
    assert cpu.busy_ratio(before, before) is None
    assert cpu.busy_ratio(before, before._replace(user=99, idle=900)) == 0.0


def test_the_first_reading_has_no_busy_ratio_and_no_zero_instead() -> None:
    records = list(cpu.Cpu(Host(proc=PROC)).collect())
    assert [record.cpu for record in records] == ["all", "0", "1"]
    assert not any(record.HasField("busy_ratio") for record in records)
    assert records[0].load_1m == 0.21
    assert not records[1].HasField("load_1m")


def test_the_processors_of_this_machine_are_those_that_psutil_sees() -> None:
    collector = cpu.Cpu(Host())
    before = psutil.cpu_times()
    total, *each = collector.collect()
    after = psutil.cpu_times()
    assert len(each) == psutil.cpu_count()
    # psutil leaves the time of guests out of user time; a tick of rounding is 10 ms.
    assert before.user + before.guest - 0.02 <= total.user_seconds <= after.user + after.guest + 0.02
    assert before.idle - 0.05 <= total.idle_seconds <= after.idle + 0.05


# ---- memory ----


def test_memory_is_read_in_bytes() -> None:
    (record,) = memory.Memory(Host(proc=PROC)).collect()
    assert record.total_bytes == 16316412 * 1024
    assert record.used_bytes == (16316412 - 9671520) * 1024
    assert record.used_ratio == pytest.approx(1 - 9671520 / 16316412)
    assert record.cached_bytes == (7340032 + 409600) * 1024
    assert record.swap_used_bytes == 1024 * 1024
    assert (record.swapped_in_pages, record.swapped_out_pages) == (12, 256)
    assert (record.major_faults, record.out_of_memory_kills) == (1434, 2)


def test_a_kernel_that_does_not_count_kills_leaves_them_absent(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(text("meminfo"))
    (tmp_path / "vmstat").write_text("pswpin 0\npswpout 0\npgmajfault 3\n")
    (record,) = memory.Memory(Host(proc=tmp_path)).collect()
    assert not record.HasField("out_of_memory_kills")


def test_the_memory_of_this_machine_is_what_psutil_sees() -> None:
    (record,) = memory.Memory(Host()).collect()
    seen = psutil.virtual_memory()
    assert record.total_bytes == seen.total
    assert record.available_bytes == pytest.approx(seen.available, rel=0.1)
    assert record.swap_total_bytes == psutil.swap_memory().total


# ---- disk_usage ----


def test_mounts_are_chosen_as_df_chooses_them() -> None:
    chosen = disk_usage.filesystems(disk_usage.parse_mountinfo(text("mountinfo")))
    assert [(mount.mountpoint, mount.device) for mount in chosen] == [
        ("/", "/dev/nvme0n1p2"),
        ("/dev", "udev"),
        ("/mnt/big disk", "/dev/nvme0n1p3"),
        ("/mnt/nas", "nas.example.org:/export"),
        ("/tmp", "later"),
    ]


def test_a_broken_mount_line_is_no_mount() -> None:
    with pytest.raises(ValueError, match="lacks its separator"):
        list(disk_usage.parse_mountinfo("22 27 0:21 / /proc rw,nosuid shared:13\n"))


def test_the_root_filesystem_is_as_full_as_df_says() -> None:
    records = {record.mountpoint: record for record in disk_usage.DiskUsage(Host()).collect()}
    root, seen = records["/"], shutil.disk_usage("/")
    assert root.total_bytes == seen.total
    assert root.used_bytes == pytest.approx(seen.used, rel=0.01)
    # psutil's percentage is that of df: of the space that is open to ordinary accounts.
    assert root.used_ratio * 100 == pytest.approx(psutil.disk_usage("/").percent, abs=0.2)
    assert root.total_inodes == os.statvfs("/").f_files


def test_a_server_that_does_not_answer_hides_no_other_filesystem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(
        "27 1 8:1 / / rw - ext4 /dev/sda1 rw\n32 27 0:45 / /mnt/nas rw - nfs4 nas:/export rw\n"
    )
    answers, asked = threading.Event(), itertools.count()
    real = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        if path == "/mnt/nas":
            next(asked)
            answers.wait()
        return real("/")

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(disk_usage, "ANSWER_WITHIN_SECONDS", 0.01)
    collector = disk_usage.DiskUsage(Host(proc=tmp_path))
    for _ in range(2):
        local, loss = collector.collect()
        assert isinstance(local, DiskUsageRecord)
        assert local.mountpoint == "/"
        assert isinstance(loss, Loss)
        assert loss.reason == LOSS_REASON_FAILURE
        assert "/mnt/nas (nas:/export) does not answer" in loss.detail
    assert next(asked) == 1, "a question that is still open was asked again"
    answers.set()
    monkeypatch.setattr(disk_usage, "ANSWER_WITHIN_SECONDS", 30.0)
    both = list(collector.collect())
    assert [getattr(record, "mountpoint", None) for record in both] == ["/", "/mnt/nas"]


# ---- disk_io ----


def test_disks_are_read_whole_and_idle_loop_devices_are_not(tmp_path: Path) -> None:
    for disk in ("loop0", "nvme0n1", "sda", "cciss!c0d0"):
        (tmp_path / "block" / disk).mkdir(parents=True)
    collector = disk_io.DiskIo(Host(proc=PROC, sys=tmp_path))
    nvme, sda, cciss = collector.collect()
    assert (nvme.device, sda.device, cciss.device) == ("nvme0n1", "sda", "cciss/c0d0")
    assert nvme.read_bytes == 4365962 * 512
    assert nvme.write_seconds == 5.834
    assert nvme.requests_in_flight == 2
    assert (nvme.discard_bytes, nvme.flush_operations) == (68624 * 512, 433)
    assert not nvme.HasField("busy_ratio")
    assert not sda.HasField("discard_bytes")
    assert not sda.HasField("flush_operations")
    assert all(record.busy_ratio == 0.0 and record.HasField("busy_ratio") for record in collector.collect())


def test_the_disks_of_this_machine_count_as_psutil_counts() -> None:
    before = psutil.disk_io_counters(perdisk=True)
    records = list(disk_io.DiskIo(Host()).collect())
    after = psutil.disk_io_counters(perdisk=True)
    assert records
    for record in records:
        low, high = before[record.device], after[record.device]
        assert low.read_bytes <= record.read_bytes <= high.read_bytes
        assert low.write_count <= record.write_operations <= high.write_count


# ---- network_io ----


def test_interfaces_are_read_with_aliases_and_without_blanks() -> None:
    lo, eth0, alias = network_io.parse_net_dev(text("net_dev"))
    assert lo.interface == "lo"
    assert eth0 == network_io.InterfaceCounters(
        "eth0", 7112566576, 176093, 1, 2, 7750927, 93346, 7, 8, collisions=10
    )
    assert alias.interface == "eth0:1"


@pytest.mark.parametrize(("speed", "bits"), [("1000\n", 10**9), ("-1\n", None), ("4294967295\n", None)])
def test_a_link_without_speed_has_none(speed: str, bits: int | None) -> None:
    assert network_io.parse_speed(speed) == bits


def test_the_interfaces_of_this_machine_count_as_psutil_counts() -> None:
    before = psutil.net_io_counters(pernic=True, nowrap=False)
    records = {record.interface: record for record in network_io.NetworkIo(Host()).collect()}
    after = psutil.net_io_counters(pernic=True, nowrap=False)
    assert records.keys() == before.keys()
    for name, record in records.items():
        assert before[name].bytes_recv <= record.received_bytes <= after[name].bytes_recv
        assert before[name].packets_sent <= record.sent_packets <= after[name].packets_sent
    assert records["lo"].operational_state == "unknown"
    assert not records["lo"].HasField("speed_bits_per_second")


# ---- agents ----


def test_an_agent_tells_what_it_costs() -> None:
    host = Host(agent=AgentStatus(spool=SpoolStatus(bytes=4096, batches=3)))
    (record,) = Agents(host).collect()
    assert record.process_id == os.getpid()
    assert record.resident_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert record.cpu_seconds > 0
    assert (record.spool_bytes, record.spool_batches) == (4096, 3)

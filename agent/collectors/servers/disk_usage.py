"""`servers.disk_usage`: how full every filesystem is, counted as `df` counts, from mountinfo and statvfs."""

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import NamedTuple

from google.protobuf.message import Message

from agent.collectors import Collector, Host, timestamp
from telltale.api.mesh.v1.batch_pb2 import LOSS_REASON_FAILURE, Loss
from telltale.api.servers.v1.disk_usage_pb2 import DiskUsageRecord

# They hold no files of their own; asking an automounter would even make it mount and dial.
PSEUDO = frozenset(
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts efivarfs fusectl hugetlbfs mqueue nsfs"
    " proc pstore rpc_pipefs securityfs selinuxfs sysfs tracefs fuse.portal".split()
)
# Answers come from another machine or from a program, and may never come.
MAY_HANG = (
    "nfs",
    "cifs",
    "smb",
    "ceph",
    "afs",
    "9p",
    "glusterfs",
    "lustre",
    "ocfs2",
    "gfs2",
    "fuse.",
    "virtiofs",
)
ANSWER_WITHIN_SECONDS = 2.0

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of mountinfo."""

    device_number: str
    root: str
    mountpoint: str
    filesystem_type: str
    device: str


def parse_mountinfo(text: str) -> Iterator[Mount]:
    """Every mount, in the order in which they were made."""
    for line in text.splitlines():
        # The optional fields in the middle end with a dash.
        before, separator, after = line.partition(" - ")
        _id, _parent, device_number, root, mountpoint = before.split(" ")[:5]
        if not separator:
            raise ValueError(f"mountinfo line {line!r} lacks its separator")
        filesystem_type, device = after.split(" ")[:2]
        yield Mount(device_number, *(_unescape(name) for name in (root, mountpoint, filesystem_type, device)))


def filesystems(mounts: Iterable[Mount]) -> list[Mount]:
    """One mount for each filesystem that holds files and can be reached, as `df` chooses them."""
    # What is mounted later on the same directory hides what was there.
    visible = {mount.mountpoint: mount for mount in mounts}
    chosen: dict[str, Mount] = {}
    for mount in visible.values():
        if mount.filesystem_type in PSEUDO:
            continue
        other = chosen.get(mount.device_number)
        if other is None or _preference(mount) < _preference(other):
            chosen[mount.device_number] = mount
    return sorted(chosen.values(), key=lambda mount: mount.mountpoint)


def _preference(mount: Mount) -> tuple[bool, int]:
    """A mount of the whole filesystem stands before a bind of a part, a short path before a long one."""
    return mount.root != "/", len(mount.mountpoint)


def _unescape(name: str) -> str:
    """Mountinfo writes blanks and backslashes as octal numbers, and any other byte as it is."""
    return _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), name)


class DiskUsage(Collector):
    """Every filesystem of the agent's mount namespace."""

    product = "servers.disk_usage"
    interval = timedelta(seconds=30)

    def __init__(self, host: Host) -> None:
        self._mountinfo = host.proc / "self" / "mountinfo"
        self._waiting: dict[str, _Question] = {}

    def collect(self) -> Iterator[Message]:
        mounts = filesystems(parse_mountinfo(self._mountinfo.read_text(errors="surrogateescape")))
        remote = [mount for mount in mounts if mount.filesystem_type.startswith(MAY_HANG)]
        # An open question of a mount that is gone is nobody's any more.
        self._waiting = {mount.mountpoint: self._ask(mount.mountpoint) for mount in remote}
        for mount in mounts:
            if mount not in remote:
                try:
                    yield from _records(mount, os.statvfs(mount.mountpoint))
                except OSError as refused:  # one broken filesystem does not hide the others
                    yield _loss(f"{mount.mountpoint} cannot be asked: {refused.strerror}")
        deadline = time.monotonic() + ANSWER_WITHIN_SECONDS
        for mount in remote:
            question = self._waiting[mount.mountpoint]
            question.join(max(0.0, deadline - time.monotonic()))
            if question.is_alive():
                yield _loss(f"{mount.mountpoint} ({mount.device}) does not answer; is its server reachable?")
                continue
            del self._waiting[mount.mountpoint]
            if question.answer is None:
                yield _loss(f"{mount.mountpoint} cannot be asked: {question.refused}")
            else:
                yield from _records(mount, question.answer)

    def _ask(self, mountpoint: str) -> "_Question":
        """Asks in a thread of its own, or goes on waiting for the question that is still open."""
        question = self._waiting.get(mountpoint)
        if question is None:
            question = _Question(mountpoint)
            question.start()
        return question


class _Question(threading.Thread):
    """One statvfs that may take for ever. It holds up neither the other filesystems nor the agent's end."""

    def __init__(self, mountpoint: str) -> None:
        super().__init__(name=f"statvfs {mountpoint}", daemon=True)
        self.mountpoint = mountpoint
        self.answer: os.statvfs_result | None = None
        self.refused = ""

    def run(self) -> None:
        try:
            self.answer = os.statvfs(self.mountpoint)
        except OSError as refused:
            self.refused = refused.strerror or str(refused)


def _records(mount: Mount, answer: os.statvfs_result) -> Iterator[DiskUsageRecord]:
    if not answer.f_blocks:
        return
    used = (answer.f_blocks - answer.f_bfree) * answer.f_frsize
    available = answer.f_bavail * answer.f_frsize
    record = DiskUsageRecord(
        time=timestamp(),
        mountpoint=_text(mount.mountpoint),
        device=_text(mount.device),
        filesystem_type=mount.filesystem_type,
        total_bytes=answer.f_blocks * answer.f_frsize,
        used_bytes=used,
        available_bytes=available,
        used_ratio=used / (used + available) if used + available else 0.0,
    )
    if answer.f_files:
        record.total_inodes = answer.f_files
        record.used_inodes = answer.f_files - answer.f_ffree
    yield record


def _text(name: str) -> str:
    """A file name as UTF-8 text: what is none is replaced."""
    return os.fsencode(name).decode(errors="replace")


def _loss(detail: str) -> Loss:
    return Loss(records=1, reason=LOSS_REASON_FAILURE, detail=_text(detail))

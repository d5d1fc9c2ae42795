"""Small file systems that can be filled up, for the processes whose full disk is tested."""

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# For all that a campaign stores; it takes memory only as it is used.
_BYTES = 512 << 20
_PAGE_BYTES = 4096
_BALLAST = "ballast"


def can_mount() -> bool:
    """Whether this machine lets us mount file systems that nobody else sees."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "chaos", "/mnt"]
    return subprocess.run(trial, check=False, capture_output=True).returncode == 0


def with_own_mounts(command: Sequence[str]) -> NoReturn:
    """Becomes `command` in a mount namespace of its own: what it mounts ends with its last process."""
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *command])


def mount(directory: Path) -> None:
    """Puts a small file system over an empty directory, for this process and its children alone."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = f"size={_BYTES},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", str(directory)], check=True)


def unmount(directory: Path, *, keep: bool) -> None:
    """Takes the file system away again; with `keep` its files stay in the directory below it. Blocks."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        if keep:
            shutil.copytree(directory, scratch, dirs_exist_ok=True)
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        if keep:
            shutil.copytree(scratch, directory, dirs_exist_ok=True)


def fill(directory: Path) -> None:
    """Takes all the space that is left, whatever others take and give back meanwhile. Blocks."""
    with open(directory / _BALLAST, "wb") as file:
        space = os.statvfs(directory)
        end, step = 0, space.f_bavail * space.f_frsize
        while step >= _PAGE_BYTES:
            try:
                os.posix_fallocate(file.fileno(), end, step)
                end += step
            except OSError as full:
                if full.errno != errno.ENOSPC:
                    raise
                step //= 2


def free(directory: Path) -> None:
    """Gives it back. Blocks."""
    with contextlib.suppress(FileNotFoundError):
        (directory / _BALLAST).unlink()

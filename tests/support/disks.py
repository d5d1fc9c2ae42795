"""Small real file systems for tests, and how to fill them to the last byte."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A tmpfs of this size, such as `20m`, mounted at `path` while the body runs. Needs root."""
    if os.geteuid() != 0:
        raise RuntimeError(f"mounting a small file system at {path} needs root; run the tests as root")
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "telltale-test", str(path)], check=True)
    try:
        yield path
    finally:
        # A process that was killed just now may still hold a file.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No space is left on the disk while the body runs."""
    ballast = disk / "ballast"
    try:
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        yield
    finally:
        ballast.unlink()

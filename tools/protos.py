"""Generates `telltale/api/` from `protos/`, or checks with --check that it is fresh.

Beside the Python modules each package directory gets `descriptors.binpb`: its files and all
that they import, with source info, so that reflection can serve the comments.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "telltale" / "api"
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"
MARK = '"""Generated from `protos/` by `make protos`. Do not edit."""\n'


def run_compiler(*arguments: str) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{WELL_KNOWN}", *arguments]
    if subprocess.run(command, cwd=PROTOS, check=False).returncode != 0:
        raise SystemExit("protos: the compiler refused the contracts above")


def generate(target: Path) -> None:
    """Writes the whole of `telltale/api` for `protos/` below `target`."""
    files = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*.proto"))
    names = [str(path) for path in files]
    run_compiler(f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}", *names)
    for directory in sorted({path.parent for path in files}):
        own = [str(path) for path in files if path.parent == directory]
        image = target / directory / "descriptors.binpb"
        run_compiler("--include_imports", "--include_source_info", f"--descriptor_set_out={image}", *own)
        for parent in (directory, *directory.parents):
            if parent.parts[:2] == ("telltale", "api"):
                (target / parent / "__init__.py").write_text(MARK)


def differences(comparison: "filecmp.dircmp[str]") -> list[str]:
    found = [*comparison.left_only, *comparison.right_only, *comparison.diff_files, *comparison.funny_files]
    for nested in comparison.subdirs.values():
        found += differences(nested)
    return [name for name in found if name != "__pycache__"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the generated code is not fresh")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "telltale" / "api"
        if options.check:
            stale = differences(filecmp.dircmp(fresh, TARGET, ignore=["__pycache__"]))
            if stale:
                raise SystemExit(f"protos: not fresh: {', '.join(sorted(stale))}; run `make protos`")
            return
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.copytree(fresh, TARGET)


if __name__ == "__main__":
    main()

"""A domain team adds a product: a proto, a collector, one line in a tuple, and nothing else."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running_mesh import BIN, ROOT, environment, eventually, up

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(240)]

PRODUCT = "servers.entropy"

COLLECTOR = '''"""The kernel's pool of entropy."""

from collections.abc import Iterable
from datetime import timedelta

from agent.collectors import Collector, Host, timestamp
from telltale.api.servers.v1.entropy_pb2 import EntropyRecord


class Entropy(Collector):
    product = "servers.entropy"
    interval = timedelta(seconds=1)

    def __init__(self, host: Host) -> None:
        self._pool = host.proc / "sys/kernel/random/entropy_avail"

    def collect(self) -> Iterable[EntropyRecord]:
        yield EntropyRecord(time=timestamp(), name="pool", available_bits=int(self._pool.read_text()))
'''


def run(root: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=root, env=environment(root), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_product_needs_a_proto_a_collector_and_one_line(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for part in ("agent", "certs", "gateway", "protos", "services", "telltale", "tools", "tests"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    before = _files(root)

    run(root, str(BIN / "telltale"), "product", "new", PRODUCT)
    proto = root / "protos/telltale/api/servers/v1/entropy.proto"
    collector = root / "agent/collectors/servers/entropy.py"
    text = proto.read_text()
    field = max(int(number) for number in re.findall(r" = (\d+)[ ;]", _record(text))) + 1
    added = f"  // Bits that the kernel's pool holds.\n  uint32 available_bits = {field};\n}}"
    text = text.replace(_record(text), _record(text).rstrip().removesuffix("}") + added, 1)
    # Where the history keeps it is one line too, and changes no question.
    proto.write_text(re.sub(r"( +)kind: KIND_\w+\n", r"\g<0>\1store: STORE_COLUMNS\n", text, count=1))
    collector.write_text(_collector(text))
    run(root, sys.executable, "-m", "tools.protos")
    changed = {path for path in _files(root).items() - before.items()}
    by_hand = {path for path, _ in changed if not path.startswith(("telltale/api", "tests"))}
    assert by_hand == {
        "protos/telltale/api/servers/v1/entropy.proto",
        "agent/collectors/servers/entropy.py",
        "agent/collectors/servers/__init__.py",
    }

    with up(tmp_path / "home", root=root) as mesh:
        rows = eventually(
            lambda: mesh.query("SELECT available_bits FROM servers_entropy LIMIT 1"), "a row of it", mesh
        )
        assert rows[0]["available_bits"] > 0
        assert mesh.query(f"SELECT store FROM products WHERE product = '{PRODUCT}'") == [{"store": "COLUMNS"}]
        assert PRODUCT in {entry["product"] for entry in mesh.json("products")}
        assert "available_bits" in mesh.telltale("describe", PRODUCT)
        assert "available_bits" in mesh.telltale("tail", PRODUCT, "--limit", "1", "--json")
        made = mesh.credentials()
        token = Path(made["token"]).read_text().strip()
        listed = run(
            root,
            *(str(BIN / "grpcurl"), "-cacert", made["ca"], "-cert", made["certificate"], "-key", made["key"]),
            *("-H", f"authorization: Bearer {token}"),
            *(f"localhost:{mesh.gateway.rpartition(':')[2]}", "list"),
        )
        assert "telltale.api.servers.v1.Entropy" in listed


def _record(proto: str) -> str:
    """The record message of a scaffolded proto."""
    found = re.search(r"message EntropyRecord \{.*?\n\}", proto, re.DOTALL)
    assert found is not None
    return found.group(0)


def _collector(proto: str) -> str:
    """The collector, in the words of the record's own key field."""
    keys = re.findall(r"string (\w+) = \d+ ?\[[^]]*ROLE_KEY", _record(proto), re.DOTALL)
    return COLLECTOR.replace('name="pool", ', f'{keys[0]}="pool", ' if keys else "")


def _files(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): hash(path.read_bytes())
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

"""A host with a certificate of somebody else's PKI, in a mesh that was told of that PKI while it ran."""

import json
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.foreign import ForeignPki, Mounted
from tests.support.running_mesh import PATIENCE_SECONDS, ROOT, RunningMesh, environment, eventually

DOMAIN = "servers.telltale.internal"
AGENT = f"spiffe://{DOMAIN}/agent/foreign1"


def events(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines() if line.startswith("{")]


def chains(mesh: RunningMesh) -> list[int]:
    """Batches of each whole chain of the host that the writer has verified and stored."""
    found = mesh.query(
        f"SELECT count(*) AS batches, min(sequence) AS first, max(sequence) AS last FROM batches "
        f"WHERE source = '{AGENT}' AND product = 'servers.memory' GROUP BY epoch"
    )
    return [row["batches"] for row in found if (row["first"], row["last"]) == (1, row["batches"])]


def test_its_records_are_believed_over_rotations_and_without_a_broken_stream(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    pki = ForeignPki.make()
    (mesh.home / "trust" / f"{DOMAIN}.bundle.pem").write_bytes(pki.root_pem)
    eventually(
        lambda: all(
            "trust bundle changed" in (mesh.home / "logs" / f"{process}.log").read_text()
            for process in ("authorities", "servers", "gateway", "writer", "analysis")
        ),
        "the bundle to be taken up",
        mesh,
    )
    mounted, log = Mounted(tmp_path / "secret"), tmp_path / "agent.log"
    mounted.put(pki.credentials(AGENT))
    settings = psutil.Process(mesh.pid("agent")).environ()
    wanted = ("MESH", "TRUST", "AUTHORITY", "SERVICE")
    variables = {f"TELLTALE_{name}": settings[f"TELLTALE_{name}"] for name in wanted}
    with log.open("w") as output:
        agent = subprocess.Popen(
            (sys.executable, "-P", "-m", "agent"),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={
                **environment(),
                **variables,
                "TELLTALE_STATE": str(tmp_path / "state"),
                "TELLTALE_CERTIFICATE_FILE": str(mounted.certificate),
                "TELLTALE_KEY_FILE": str(mounted.key),
                "TELLTALE_COLLECT": "servers.memory",
                "TELLTALE_INTERVALS": "servers.memory=200ms",
            },
        )
    try:
        eventually(lambda: chains(mesh), f"a row of the host: {log.read_text()}", mesh)
        for turn in (1, 2):
            mounted.put(pki.credentials(AGENT))
            taken = lambda turn=turn: events(log).count("certificate replaced") == turn  # noqa: E731
            eventually(taken, "the next certificate", mesh)
            (before,) = chains(mesh)
            eventually(lambda many=before + 3: chains(mesh)[0] > many, "batches of the next signer", mesh)
    finally:
        agent.terminate()
        assert agent.wait(PATIENCE_SECONDS) == 0
    assert "push interrupted" not in events(log)
    assert not mesh.query(f"SELECT * FROM quarantine WHERE source = '{AGENT}'")
    assert not (tmp_path / "state" / "identity.pem").exists()

"""What goes wrong on the way of a record becomes a finding and a row in the database of the running mesh."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from certs.home import Home
from certs.issuing import IssuingAuthority
from telltale.api.mesh.v1.batch_pb2 import SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import PushRequest
from telltale.api.mesh.v1.ingest_pb2_grpc import IngestStub
from telltale.rpc.client import call_metadata
from telltale.seal.sealing import sha256
from tests.support.batches import DISK_USAGE, Chain, disk_usage, header_of
from tests.support.mesh import Mesh
from tests.support.running_mesh import RunningMesh, eventually, up

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.timeout(240)]

# Everything that waits for a while before it speaks waits briefly here.
SETTINGS = {
    "TELLTALE_INTERVALS": "servers.disk_usage=1s",
    "TELLTALE_SILENCE_FACTOR": "0.4",
    "TELLTALE_HOLE_GRACE_SECONDS": "1",
    "TELLTALE_TICK_SECONDS": "1",
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with up(tmp_path_factory.mktemp("findings") / "home", settings=SETTINGS) as running:
        eventually(lambda: received(running, "servers.disk_usage"), "the first batch", running)
        eventually(lambda: running.query("SELECT 1 FROM analysis_findings") == [], "a look", running)
        yield running


def received(mesh: RunningMesh, product: str) -> list[dict[str, Any]]:
    return mesh.query(f"SELECT source, log FROM batches WHERE product = '{product}'")


def found(mesh: RunningMesh, detection: str, entity: str, state: str = "OPEN") -> list[dict[str, Any]]:
    return [
        finding
        for finding in mesh.json("findings")
        if (finding["detection"], finding["entity"], finding["state"]) == (detection, entity, state)
    ]


class Source:
    """An honest source. Its domain service is taken over: the log holds what somebody slipped in."""

    def __init__(self, mesh: RunningMesh, name: str) -> None:
        authority = IssuingAuthority.load(mesh.home / "authorities" / "servers")
        trusted = Mesh(Home(mesh.home), authority.mesh, {"servers": authority})
        self._me = trusted.workload("servers", f"/agent/{name}")
        self._mesh = mesh
        self._log = mesh.home / "state" / "servers" / "log.db"
        self.spiffe_id = str(self._me.spiffe_id)
        self.chain = Chain(self._me.credentials)

    def push(self, batch: SealedBatch) -> None:
        """Hands a batch to the domain service, which takes it."""
        pid = eventually(lambda: self._mesh.pids("services.servers"), "the service", self._mesh)[0]
        service = psutil.Process(pid).environ()["TELLTALE_LISTEN"]
        asyncio.run(self._push(service, batch))

    async def _push(self, address: str, batch: SealedBatch) -> None:
        domain = self._me.spiffe_id.trust_domain
        async with self._me.channel(address, f"service.{domain}") as channel:
            metadata = await call_metadata(self._me, domain)
            # After something was slipped in, the service starts anew.
            call = IngestStub(channel).Push(metadata=metadata, wait_for_ready=True)
            await call.initial_metadata()
            await call.write(PushRequest(batches=[batch], certificates=self._me.credentials.certificates))
            await call.done_writing()
            (response,) = [response async for response in call]
        assert response.acks, response

    def slip_in(self, batches: Sequence[SealedBatch]) -> None:
        """Puts batches into the log as somebody would who owns the domain service's machine."""
        # What it took lately it serves from memory: the next one knows the file alone.
        service = psutil.Process(self._mesh.pid("services.servers"))
        service.kill()
        service.wait(30)
        now = int(datetime.now(UTC).timestamp() * 1_000)
        signer = self._me.credentials.thumbprint.hex()
        with closing(sqlite3.connect(self._log, timeout=30)) as log, log:
            for batch in batches:
                header = header_of(batch)
                key = (header.product, header.source, header.epoch, header.sequence)
                log.execute(
                    "INSERT INTO batches (product, source, epoch, sequence, header_sha256, signer,"
                    " received_ms, batch) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*key, sha256(batch.header), signer, now, batch.SerializeToString()),
                )


def test_a_batch_that_vanishes_in_the_domain_is_a_broken_chain(mesh: RunningMesh) -> None:
    source = Source(mesh, "dropped")
    source.push(source.chain.next([disk_usage("/")]))
    source.chain.next([disk_usage("/")])
    after = source.chain.next([disk_usage("/")])
    # A while later by its own clock: by then it would have said that it gave a batch up.
    later = source.chain.next([disk_usage("/")], sealed_at=datetime.now(UTC) + timedelta(seconds=30))
    source.slip_in([after, later])
    (finding,) = eventually(lambda: found(mesh, "broken_chain", "dropped"), "the finding", mesh)
    assert (finding["product"], finding["source"]) == (DISK_USAGE, source.spiffe_id)
    assert finding["completeness"]["missing_batches"] == 1
    (hole,) = mesh.query(
        "SELECT first_sequence, last_sequence, reason FROM holes WHERE source LIKE '%/agent/dropped'"
    )
    assert hole == {"first_sequence": 2, "last_sequence": 2, "reason": "UNDECLARED"}


def test_a_batch_that_is_changed_in_the_domain_is_a_forged_batch(mesh: RunningMesh) -> None:
    source = Source(mesh, "flipped")
    source.push(source.chain.next([disk_usage("/")]))
    batch = source.chain.next([disk_usage("/", 0.5)])
    batch.payload = batch.payload[:-1] + bytes([batch.payload[-1] ^ 1])
    source.slip_in([batch])
    (finding,) = eventually(lambda: found(mesh, "forged_batch", "flipped"), "the finding", mesh)
    assert "the payload is not the one that was signed" in str(finding["evidence"])
    (row,) = mesh.query("SELECT reason, signed FROM quarantine WHERE source LIKE '%/agent/flipped'")
    assert (row["reason"], bool(row["signed"])) == ("SIGNATURE", False)


def test_a_second_story_in_the_log_is_a_cloned_identity(mesh: RunningMesh) -> None:
    source = Source(mesh, "forked")
    source.push(source.chain.next([disk_usage("/")]))
    source.slip_in(
        [source.chain.next([disk_usage("/")], previous_header_sha256=sha256(b"what the other holder sealed"))]
    )
    (finding,) = eventually(lambda: found(mesh, "cloned_identity", "forked"), "the finding", mesh)
    assert finding["severity"].endswith("CRITICAL")
    (row,) = mesh.query("SELECT reason, signed FROM quarantine WHERE source LIKE '%/agent/forked'")
    assert (row["reason"], bool(row["signed"])) == ("FORK", True)


def test_a_stopped_agent_is_silent_until_it_goes_on(mesh: RunningMesh) -> None:
    agent = mesh.pid("agent")
    host = Path(received(mesh, "servers.memory")[0]["source"]).name
    os.kill(agent, signal.SIGSTOP)
    try:
        (silent,) = eventually(lambda: found(mesh, "source_silent", host), "the finding", mesh)
    finally:
        os.kill(agent, signal.SIGCONT)
    assert silent["threshold"] == 24
    ended = eventually(lambda: found(mesh, "source_silent", host, "ENDED"), "its end", mesh)
    assert silent["id"] in {finding["id"] for finding in ended}


def test_a_log_that_was_replaced_is_a_gap(mesh: RunningMesh) -> None:
    before = {row["log"] for row in received(mesh, DISK_USAGE)}
    for file in (mesh.home / "state" / "servers").glob("log.db*"):
        file.unlink()
    os.kill(mesh.pid("services.servers"), signal.SIGKILL)
    eventually(lambda: found(mesh, "stream_gap", DISK_USAGE), "the finding", mesh)
    gaps = mesh.query(f"SELECT log, reason, resumed_log FROM gaps WHERE product = '{DISK_USAGE}'")
    assert [(gap["log"] in before, gap["reason"]) for gap in gaps] == [(True, "LOG_REPLACED")]
    assert gaps[0]["resumed_log"] not in before
    # The agent's chains go on where they were: what the gap took is not held against it.
    eventually(lambda: {row["log"] for row in received(mesh, DISK_USAGE)} > before, "new batches", mesh)
    host = Path(received(mesh, "servers.memory")[0]["source"]).name
    assert not found(mesh, "broken_chain", host)

"""Certificates and tokens of seconds, authorities and token keys renewed, all under load: nobody notices.

A minute in the suite, ten by `make lifetimes`.
"""

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from structlog.testing import capture_logs

from telltale.api.mesh.v1.stream_pb2 import Start
from telltale.consume.delivered import Delivered
from telltale.consume.subscription import Subscription
from telltale.identity.workload import Workload
from telltale.settings import IdentitySettings
from telltale.source.source import Source, SourceSettings
from tests.support.batches import DISK_USAGE, SERVERS, disk_usage
from tests.support.running_mesh import BIN, ROOT, RunningMesh, environment, eventually, up

SECONDS = float(os.environ.get("TELLTALE_TEST_SECONDS", "40"))
LEAF_SECONDS, TOKEN_SECONDS = 10, 5
DOMAIN = "servers.telltale.internal"
# What the log of a process says when a stream or a call of the kit did not end as it should.
MISHAPS = (
    "push interrupted",
    "upstream ended",
    "upstream broken",
    "stream broken; reconnecting",
    "call failed",
)

pytestmark = [pytest.mark.timeout(SECONDS + 240), pytest.mark.xdist_group("lifetimes")]


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    settings = {
        "TELLTALE_LEAF_SECONDS": str(LEAF_SECONDS),
        "TELLTALE_TOKEN_SECONDS": str(TOKEN_SECONDS),
        "TELLTALE_INTERVALS": "servers.cpu=200ms,servers.memory=200ms",
    }
    with up(tmp_path_factory.mktemp("lifetimes") / "home", settings=settings) as mesh:
        eventually(lambda: mesh.query("SELECT host_name FROM servers_inventory"), "a row", mesh)
        yield mesh


@contextlib.asynccontextmanager
async def joined(mesh: RunningMesh, directory: Path, host: str) -> AsyncIterator[Workload]:
    """A host that joins as any other, and lives in this process."""
    invitation = await asyncio.to_thread(mesh.json, "agent", "token", host)
    settings = IdentitySettings(
        state=directory,
        trust=mesh.home / "trust",
        authority=authority(mesh),
        enrollment=invitation["address"],
        join_token_file=token_file(directory, invitation["token"]),
        certificate_file=None,
        key_file=None,
    )
    async with Workload.open(settings) as me:
        yield me


def token_file(directory: Path, token: str) -> Path:
    directory.mkdir()
    path = directory / "join-token"
    path.write_text(token)
    return path


def authority(mesh: RunningMesh) -> str:
    return str(json.loads((mesh.home / "mesh.json").read_text())["authorities"]["servers"])


def service(mesh: RunningMesh) -> str:
    """Where the servers' agents push."""
    return psutil.Process(mesh.pid("services.servers")).environ()["TELLTALE_ADVERTISE"]


def renew(mesh: RunningMesh) -> None:
    """What an operator does with the root key, while everything runs."""
    command = (sys.executable, "-P", "-m", "certs", "renew", "--home", str(mesh.home), "--now")
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)


def told(mesh: RunningMesh, since: float) -> list[dict[str, Any]]:
    """What the logs of all processes have said since then."""
    events = []
    for path in sorted((mesh.home / "logs").glob("*.log")):
        for line in path.read_text().splitlines():
            if line.startswith("{"):
                event = {"process": path.stem, **json.loads(line)}
                if event["timestamp"] >= stamp(since):
                    events.append(event)
    return events


async def follow(me: Workload, gateway: str, heard: dict[tuple[str, str, int], list[int]]) -> None:
    """Hears every batch of the servers' products, from the next one on."""
    async with Subscription(me, gateway, ["servers.*"], start=Start.START_LATEST, patient=False) as stream:
        async for items in stream:
            for item in items:
                assert isinstance(item, Delivered), item
                assert item.refused is None and not item.missing, item
                heard[item.product, item.header.source, item.header.epoch].append(item.header.sequence)


async def publish(source: Source, until: float) -> int:
    number = 0
    while time.time() < until:
        number += 1
        await source.publish(DISK_USAGE, [disk_usage(f"/{number}")])
        await asyncio.sleep(0.02)
    return number


async def test_nothing_is_lost_and_no_stream_breaks_over_many_generations(
    brief: RunningMesh, tmp_path: Path
) -> None:
    heard: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    with capture_logs() as logs:
        async with joined(brief, tmp_path / "busy", "busy1") as me:
            # The reader is another identity: an agent may not subscribe.
            async with operator(brief, tmp_path) as reader:
                spool = SourceSettings(tmp_path / "spool.db", service(brief), DOMAIN)
                async with Source(me, spool, SERVERS) as source, asyncio.TaskGroup() as tasks:
                    following = tasks.create_task(follow(reader, brief.gateway, heard))
                    with tail(brief, tmp_path) as tailing:
                        steady = time.time() + 3
                        ends = time.time() + SECONDS
                        publishing = tasks.create_task(publish(source, ends))
                        for share in (0.3, 0.6):
                            await asyncio.sleep(max(0.0, ends - SECONDS * (1 - share) - time.time()))
                            await asyncio.to_thread(renew, brief)
                        published = await publishing
                        assert tailing.poll() is None, (tmp_path / "tail.err").read_text()
                    done = time.time()
                    sent = await all_acked(source)
                    await asyncio.to_thread(stored, brief, published)
                    following.cancel()
    # The mesh's own agent and the busy source, each product: every sequence once, heard and stored.
    chains = [key for key in heard if key[1].endswith("/busy1") and key[0] == DISK_USAGE]
    assert len(chains) == 1 and sent == published
    for key, sequences in heard.items():
        assert sequences == list(range(sequences[0], sequences[-1] + 1)), key
    assert heard[chains[0]][-1] == published
    for row in await asyncio.to_thread(
        brief.query,
        "SELECT product, source, epoch, count(*) AS batches, min(sequence) AS first, max(sequence) AS last "
        "FROM batches GROUP BY ALL",
    ):
        assert (row["first"], row["last"]) == (1, row["batches"]), row
    for table in ("holes", "gaps", "quarantine", "mesh_refusals", "analysis_findings"):
        assert not await asyncio.to_thread(brief.query, f"SELECT * FROM {table} LIMIT 5"), table

    # Not one stream or call of the kit was ended by a server, in any process.
    assert not [line for line in logs if line["event"] in MISHAPS]
    events = told(brief, steady)
    assert not [one for one in events if one["event"] in MISHAPS and one["timestamp"] < stamp(done)]
    ended = await asyncio.to_thread(
        brief.query,
        "SELECT role, attributes, max(value) AS calls FROM mesh_processes "
        "WHERE metric = 'telltale.rpc.calls' AND attributes::VARCHAR LIKE '%UNAUTHENTICATED%' GROUP BY ALL",
    )
    assert not ended
    # And that it was a test: everybody was renewed again and again, and issued to by three generations.
    renewed = [one["process"] for one in events if one["event"] == "certificate renewed"]
    for process in (
        "agent",
        "analysis",
        "authorities",
        "gateway",
        "network",
        "platform",
        "servers",
        "writer",
    ):
        assert renewed.count(process) >= (SECONDS - 10) // LEAF_SECONDS, process
    assert len([one for one in events if one["event"] == "authority renewed"]) == 2 * 5
    assert len(issuers(brief)) == 3


@contextlib.asynccontextmanager
async def operator(mesh: RunningMesh, directory: Path) -> AsyncIterator[Workload]:
    """An operator with a directory of its own."""
    command = (sys.executable, "-P", "-m", "certs", "join-token", "--home", str(mesh.home))
    minted = await asyncio.to_thread(
        subprocess.run,
        (*command, "--domain", "operators", "--path", "/reader"),
        cwd=ROOT,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    running = json.loads((mesh.home / "mesh.json").read_text())
    state = directory / "reader"
    settings = IdentitySettings(
        state=state,
        trust=mesh.home / "trust",
        authority=running["authority"],
        enrollment=running["enrollment"],
        join_token_file=token_file(state, minted.stdout),
        certificate_file=None,
        key_file=None,
    )
    async with Workload.open(settings) as me:
        yield me


@contextlib.contextmanager
def tail(mesh: RunningMesh, directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`telltale tail`, as somebody lets it run in a terminal."""
    command = [str(BIN / "telltale"), "--home", str(mesh.home), "tail", "servers.memory", "--json"]
    out, err = directory / "tail.out", directory / "tail.err"
    with out.open("w") as output, err.open("w") as errors:
        process = subprocess.Popen(command, env=environment(), cwd=ROOT, stdout=output, stderr=errors)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
    assert not err.read_text()
    assert len(out.read_text().splitlines()) > SECONDS


async def all_acked(source: Source) -> int:
    async with asyncio.timeout(60):
        while (await source.usage()).batches:  # noqa: ASYNC110 - what is waited for lies on disk
            await asyncio.sleep(0.05)
    return source.records_published


def stored(mesh: RunningMesh, published: int) -> None:
    eventually(
        lambda: mesh.query(
            "SELECT count(*) AS rows FROM servers_disk_usage WHERE _source LIKE '%/busy1' "
            f"HAVING count(*) = {published}"
        ),
        f"{published} rows",
        mesh,
    )


def stamp(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def issuers(mesh: RunningMesh) -> set[bytes]:
    """The generations of the servers' authority that the servers' log holds batches of."""
    connection = sqlite3.connect(f"file:{mesh.home / 'state' / 'servers' / 'log.db'}?mode=ro", uri=True)
    found = [row[0] for row in connection.execute("SELECT der FROM certificates")]
    connection.close()
    return {der for der in found if is_authority(x509.load_der_x509_certificate(der))}


def is_authority(certificate: x509.Certificate) -> bool:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

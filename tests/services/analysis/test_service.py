"""The whole service on the real wire: a disk fills up on a host, and an operator reads the finding."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.serving import serving_gateway
from gateway.settings import GatewaySettings
from services.analysis.outbox import PRODUCT
from services.analysis.service import POLICY, analysing
from services.analysis.settings import AnalysisSettings
from telltale.api.analysis.v1.findings_pb2 import FindingsFrame, FindingsRecord, State, Verdict
from telltale.api.mesh.v1.batch_pb2 import Origin
from telltale.consume.delivered import Delivered
from telltale.consume.subscription import Subscription
from telltale.domain.service import Domain, DomainSettings, serving_domain
from telltale.errors import ConfigurationError
from telltale.source.source import Source, SourceSettings
from tests.support.batches import DISK_USAGE, SERVERS, disk_usage
from tests.support.domain import ROOT, free_port
from tests.support.mesh import Mesh


class Wire:
    """A mesh of a gateway and the servers domain, and the settings of whoever joins it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mesh = Mesh.create(directory / "mesh", "servers", "platform", "analysis", "operators")
        self.gateway = f"127.0.0.1:{free_port()}"
        self.servers = f"127.0.0.1:{free_port()}"
        self.analysis = f"127.0.0.1:{free_port()}"
        self.nobody = f"127.0.0.1:{free_port()}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        me = self.mesh.workload("platform", "/gateway", [self.mesh.server_name("gateway", "platform")])
        settings = GatewaySettings(**self._identity("gateway"), listen=self.gateway, lease_seconds=1)
        servers = DomainSettings(
            **self._identity("servers"), listen=self.servers, advertise=self.servers, gateway=self.gateway
        )
        owner = self.mesh.workload("servers", "/service", [self.mesh.server_name("service", "servers")])
        policy = ROOT / "services" / "servers" / "policy.cedar"
        async with serving_gateway(me, settings), serving_domain(owner, servers, "servers", policy):
            yield

    @contextlib.asynccontextmanager
    async def analysing(self) -> AsyncIterator[Domain]:
        """The analysis service; another one over the same directory goes on where the last one ended."""
        settings = AnalysisSettings(
            **self._identity("analysis"),
            listen=self.analysis,
            advertise=self.analysis,
            gateway=self.gateway,
            tick_seconds=0.1,
        )
        me = self.mesh.workload("analysis", "/service", [self.mesh.server_name("service", "analysis")])
        async with serving_domain(me, settings, "analysis", POLICY) as domain, analysing(domain, settings):
            yield domain

    async def fill(self, ratios: list[float], until: datetime) -> None:
        """A host tells how full its disk was, every 30 s up to a time."""
        agent = self.mesh.workload("servers", "/agent/web1")
        settings = SourceSettings(
            self.directory / "spool.db", self.servers, self.mesh.trust_domain("servers"), 1 << 24
        )
        async with Source(agent, settings, SERVERS) as source:
            for place, ratio in enumerate(ratios):
                at = until - timedelta(seconds=30 * (len(ratios) - 1 - place))
                await source.publish(DISK_USAGE, [disk_usage("/var", ratio, at)])

    async def read_findings(self, count: int) -> list[tuple[Delivered, FindingsRecord]]:
        """What an operator gets of the product through the gateway, from its beginning."""
        operator = self.mesh.workload("operators", "/ann")
        found: list[tuple[Delivered, FindingsRecord]] = []
        async with Subscription(operator, self.gateway, [PRODUCT]) as stream:
            async for items in stream:
                for item in items:
                    assert isinstance(item, Delivered)
                    assert item.refused is None
                    records = FindingsFrame.Records.FromString(item.batch.payload).records
                    found += [(item, record) for record in records]
                if len(found) >= count:
                    break
        return found

    def _identity(self, name: str) -> dict[str, object]:
        return {
            "mesh": self.mesh.name,
            "state": self.directory / name,
            "trust": self.mesh.home.trust,
            "authority": self.nobody,
            "enrollment": self.nobody,
            "platform": self.nobody,
        }


def test_no_products_at_all_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "TRUST"):
        monkeypatch.setenv(f"TELLTALE_{name}", str(tmp_path))
    for name in ("AUTHORITY", "ENROLLMENT", "GATEWAY", "PLATFORM", "LISTEN", "ADVERTISE"):
        monkeypatch.setenv(f"TELLTALE_{name}", "none:1")
    assert AnalysisSettings.read().products == ("*",)
    for text in ("", " , ", "servers.*,no product"):
        monkeypatch.setenv("TELLTALE_PRODUCTS", text)
        with pytest.raises(ConfigurationError, match=r"TELLTALE_PRODUCTS: .*product"):
            AnalysisSettings.read()


async def test_a_full_disk_becomes_a_product_that_an_operator_reads(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    now = datetime.now(UTC)
    async with asyncio.timeout(60), wire.running():
        async with wire.analysing():
            await wire.fill([0.5, 0.92, 0.93, 0.94], now - timedelta(seconds=60))
            ((delivered, opened),) = await wire.read_findings(1)
        # It ends while the service is down, and is told once the service is back.
        await wire.fill([0.4], now)
        async with wire.analysing():
            (_, (_, ended)) = await wire.read_findings(2)
    assert delivered.header.source == str(wire.mesh.spiffe_id("analysis", "/service"))
    assert (opened.state, ended.state) == (State.STATE_OPEN, State.STATE_ENDED)
    assert (opened.id, opened.revision) == (ended.id, ended.revision - 1)
    assert (opened.detection, opened.verdict) == ("disk_space", Verdict.VERDICT_PERFORMANCE)
    assert (opened.host, opened.part, opened.product) == ("web1", "/var", DISK_USAGE)
    assert opened.value == 0.94
    assert opened.origin == Origin.ORIGIN_AUTHENTICATED
    assert opened.window_start.ToDatetime(UTC) == now - timedelta(seconds=120)
    assert ended.time.ToDatetime(UTC) == now

"""One process that serves several authorities, as its environment says."""

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from certs.serve import AuthoritySettings, serve
from telltale.rpc.health import check
from tests.support.mesh import Mesh


async def test_one_process_serves_several_authorities_and_stops_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh.create(tmp_path, "servers", "operators")
    addresses = [
        {
            "directory": str(mesh.home.authority(domain)),
            "listen": "127.0.0.1:0",
            "enrollment": "127.0.0.1:0",
        }
        for domain in mesh.authorities
    ]
    monkeypatch.setenv("TELLTALE_AUTHORITIES", json.dumps(addresses))
    stopping = asyncio.Event()

    def ready(_logger: object, _method: str, event: dict[str, object]) -> dict[str, object]:
        if event["event"] == "authorities ready":
            stopping.set()
        return event

    with capture_logs(processors=[ready]) as logs:
        await serve(AuthoritySettings.read(), stopping)
    serving = [entry for entry in logs if entry["event"] == "serving"]
    assert [entry["spiffe_id"] for entry in serving] == [
        "spiffe://servers.telltale.test/authority",
        "spiffe://servers.telltale.test/authority",
        "spiffe://operators.telltale.test/authority",
        "spiffe://operators.telltale.test/authority",
    ]
    assert len({entry["port"] for entry in serving}) == 4
    # Stopped for good: nothing answers any more.
    with pytest.raises(Exception, match="UNAVAILABLE"):
        port = serving[1]["port"]
        name = mesh.server_name("authority", "servers")
        await check(f"127.0.0.1:{port}", name, mesh.trust.root_pem, None)

"""Flows from a real exporter to SQL: softflowd, the receiver, its domain, the gateway, the writer."""

import socket
import time
from pathlib import Path

import pytest

from tests.support.exporters import exported, packets, write_pcap
from tests.support.running_mesh import RunningMesh, eventually

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]


def test_flows_of_a_real_exporter_are_rows_with_addresses_as_text(mesh: RunningMesh, tmp_path: Path) -> None:
    write_pcap(tmp_path / "packets.pcap", packets(), time.time() - 60)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in exported("packets.pcap", 10, tmp_path):
            sender.sendto(datagram, mesh.flows)
    rows = eventually(
        lambda: mesh.query(
            "SELECT protocol, count(*) AS flows, sum(total_packets) AS packets, min(source_address) AS first,"
            " min(exporter_address) AS exporter, min(_origin) AS origin, min(_verified) AS verified"
            " FROM network_flows WHERE format = 'IPFIX' AND next_hop_address IS NULL"
            " GROUP BY protocol HAVING sum(total_packets) > 0 ORDER BY protocol"
        ),
        "rows of flows",
        mesh,
    )
    shared = {"exporter": "127.0.0.1", "origin": "OBSERVED", "verified": rows[0]["verified"]}
    # Twenty hosts: ping, TCP both ways, and DNS beside QUIC over IPv6.
    assert rows == [
        {"protocol": 1, "flows": 20, "packets": 20, "first": "192.0.2.1", **shared},
        {"protocol": 6, "flows": 40, "packets": 100, "first": "192.0.2.1", **shared},
        {"protocol": 17, "flows": 40, "packets": 40, "first": "192.0.2.1", **shared},
    ]
    (exporter,) = eventually(
        lambda: mesh.query(
            "SELECT state, lost_records, _origin FROM network_exporters"
            " WHERE address = '127.0.0.1' AND format = 'IPFIX'"
        ),
        "a row of the exporter",
        mesh,
    )
    assert exporter == {"state": "ACTIVE", "lost_records": 0, "_origin": "OBSERVED"}
    assert "127.0.0.1" in mesh.telltale("inventory", "network.exporters")


def test_an_operator_invites_a_receiver(mesh: RunningMesh) -> None:
    invited = mesh.json("agent", "token", "edge1", "--domain", "network", "--role", "receiver")
    assert invited["spiffe_id"] == "spiffe://network.telltale.internal/receiver/edge1"

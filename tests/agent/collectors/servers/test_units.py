"""systemd units on a tree of files laid out as systemd lays it out."""

import hashlib
from pathlib import Path

import pytest

from agent.collectors import CannotCollect, Host
from agent.collectors.servers.units import Units
from agent.host.unit_files import parse_definition, template_of
from telltale.api.servers.v1.units_pb2 import (
    ENABLEMENT_DISABLED,
    ENABLEMENT_ENABLED,
    ENABLEMENT_MASKED,
    ENABLEMENT_STATIC,
    ENABLEMENT_TRANSIENT,
    UnitsRecord,
)

WEB = """\
[Unit]
Description=A web server
; a comment
[Service]
User=www
Environment=IGNORED=1
ExecStartPre=/usr/bin/web --check
ExecStart=/usr/bin/web --port 80 \\
    --password hunter2hunter2
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(etc=tmp_path / "etc", run=tmp_path / "run", usr=tmp_path / "usr")
    vendor, own = host.usr / "lib/systemd/system", host.etc / "systemd/system"
    for directory in (
        vendor / "sysinit.target.wants",
        own / "multi-user.target.wants",
        own / "web.service.d",
        host.run / "systemd/system",
        host.run / "systemd/transient",
        host.run / "systemd/units",
    ):
        directory.mkdir(parents=True)
    (vendor / "web.service").write_text(WEB)
    (vendor / "static.service").write_text("[Service]\nExecStart=/bin/true\n")
    (vendor / "sysinit.target.wants/static.service").symlink_to("../static.service")
    (vendor / "off.timer").write_text("[Timer]\nOnBootSec=1\n[Install]\nWantedBy=timers.target\n")
    (vendor / "getty@.service").write_text("[Unit]\nDescription=Getty on %I\n[Install]\nAlias=x\n")
    (vendor / "evil.service").write_text(WEB)
    (vendor / "other-name.service").symlink_to("web.service")
    (own / "evil.service").symlink_to("/dev/null")
    (own / "multi-user.target.wants/web.service").symlink_to(vendor / "web.service")
    (own / "multi-user.target.wants/getty@tty1.service").symlink_to(vendor / "getty@.service")
    (own / "web.service.d/10-own.conf").write_text("[Service]\nExecStart=\nExecStart=/opt/web\n")
    (host.run / "systemd/transient/run-1.service").write_text("[Service]\nExecStart=/bin/sleep 9\n")
    (host.run / "systemd/units/invocation:web.service").symlink_to("0123456789abcdef")
    (host.run / "systemd/units/invocation:-.mount").symlink_to("fedcba9876543210")
    (host.run / "systemd/units/log-level-max:web.service").symlink_to("6")
    return host


def collected(units: Units) -> dict[str, UnitsRecord]:
    return {record.unit: record for record in units.collect()}


def test_every_unit_with_a_file_or_a_run_is_told_and_nothing_else(host: Host) -> None:
    assert sorted(collected(Units(host))) == [
        "-.mount",
        "evil.service",
        "getty@tty1.service",
        "off.timer",
        "run-1.service",
        "static.service",
        "web.service",
    ]


def test_what_starts_a_unit_by_itself_is_told(host: Host) -> None:
    enablement = {unit: record.enablement for unit, record in collected(Units(host)).items()}
    assert enablement == {
        "-.mount": ENABLEMENT_TRANSIENT,
        "evil.service": ENABLEMENT_MASKED,
        "getty@tty1.service": ENABLEMENT_ENABLED,
        "off.timer": ENABLEMENT_DISABLED,
        "run-1.service": ENABLEMENT_TRANSIENT,
        "static.service": ENABLEMENT_STATIC,
        "web.service": ENABLEMENT_ENABLED,
    }


def test_a_drop_in_changes_what_a_unit_starts(host: Host) -> None:
    web = collected(Units(host))["web.service"]
    assert web.command == "/usr/bin/web --check\n/opt/web"
    assert (web.description, web.account) == ("A web server", "www")
    assert [Path(path).name for path in web.drop_ins] == ["10-own.conf"]
    drop_in = (host.etc / "systemd/system/web.service.d/10-own.conf").read_bytes()
    assert web.definition_sha256 == hashlib.sha256(WEB.encode() + drop_in).hexdigest()


def test_secrets_in_commands_are_masked() -> None:
    definition = parse_definition(WEB)
    assert definition.commands == ("/usr/bin/web --check", "/usr/bin/web --port 80 --password ***")


def test_an_instance_is_what_its_template_says(host: Host) -> None:
    getty = collected(Units(host))["getty@tty1.service"]
    assert getty.description == "Getty on %I"
    assert template_of("getty@tty1.service") == "getty@.service"
    assert template_of("web.service") == "web.service"


def test_a_restart_is_another_invocation(host: Host) -> None:
    units = Units(host)
    before = collected(units)["web.service"]
    assert (before.active, before.invocation_id) == (True, "0123456789abcdef")
    assert before.active_since.seconds
    link = host.run / "systemd/units/invocation:web.service"
    link.unlink()
    stopped = collected(units)["web.service"]
    assert (stopped.active, stopped.invocation_id, stopped.HasField("active_since")) == (False, "", False)
    link.symlink_to("another")
    assert collected(units)["web.service"].invocation_id == "another"


def test_a_changed_file_is_read_again(host: Host) -> None:
    units = Units(host)
    before = collected(units)["static.service"]
    (host.usr / "lib/systemd/system/static.service").write_text("[Service]\nExecStart=/tmp/implant\n")
    after = collected(units)["static.service"]
    assert after.command == "/tmp/implant"
    assert after.definition_sha256 != before.definition_sha256


def test_a_host_without_systemd_says_so(tmp_path: Path) -> None:
    with pytest.raises(CannotCollect, match="systemd is not the init process"):
        list(Units(Host(run=tmp_path)).collect())

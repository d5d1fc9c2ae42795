"""compose.yaml without containers: each service's exact command, environment and probe as local processes.

A volume becomes a directory, a service's name an address of its own in 127.0.0.0/8; nothing else is changed.
"""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from telltale.cli.supervisor import Bounds, Program, supervising

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROCESSES = [name for name in SERVICES if name != "init"]
SUBNET: str = COMPOSE["networks"]["default"]["ipam"]["config"][0]["subnet"]


@dataclass(frozen=True)
class Machine:
    """Where the containers would be: a directory for each volume, an address for each service."""

    directory: Path
    network: str

    def volume(self, name: str) -> Path:
        path = self.directory / "volumes" / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def address(self, service: str) -> str:
        return f"{self.network}.{list(SERVICES).index(service) + 1}"

    def localised(self, service: str, text: str) -> str:
        """A string of the service as it reads on this machine."""
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        text = text.replace(SUBNET, f"{self.network}.0/24")
        text = re.sub(r"\b0\.0\.0\.0:", f"{self.address(service)}:", text)
        text = re.sub(r"\b127\.0\.0\.1:(\d+)", lambda found: self._loopback(service, found[1]), text)
        names = "|".join(sorted(SERVICES, key=len, reverse=True))
        text = re.sub(rf"(?<![\w.-])({names}):(?=\d)", lambda found: f"{self.address(found[1])}:", text)
        for top in self._mounted(service):
            text = re.sub(rf"(?<![\w/]){top}(?=[/\"]|$)", f"{self.directory}/{service}{top}", text)
        return text

    def environment(self, service: str) -> dict[str, str]:
        told = {
            name: self.localised(service, str(value))
            for name, value in SERVICES[service]["environment"].items()
        }
        return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **told}

    def command(self, service: str, words: list[str]) -> tuple[str, ...]:
        copied = dict(re.findall(r"^COPY --chmod=\S+ (\S+) (\S+)$", DOCKERFILE, re.MULTILINE))
        places = {inside: str(ROOT / outside) for outside, inside in copied.items()}
        programs = {"python": sys.executable, "sh": "/bin/sh"}
        return tuple(
            programs.get(word) or places.get(word) or self.localised(service, word) for word in words
        )

    def _mounted(self, service: str) -> set[str]:
        """Puts the volumes where the container would have them, and returns their top directories."""
        tops = set()
        for source, target, _ in map(mount, SERVICES[service]["volumes"]):
            # What is mounted from the host is in its place already.
            if not source.startswith("/"):
                place = self.directory / service / target.removeprefix("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    place.symlink_to(self.volume(source))
                tops.add("/" + target.split("/")[1])
        return tops

    def _loopback(self, service: str, port: str) -> str:
        if SERVICES[service].get("network_mode") != "host":
            return f"{self.address(service)}:{port}"
        for name, other in SERVICES.items():
            for published in other.get("ports", ()):
                host, outside, inside = published.split(":")
                if (host, outside) == ("127.0.0.1", port):
                    return f"{self.address(name)}:{inside}"
        raise AssertionError(f"{service} dials 127.0.0.1:{port}, which no service publishes")


def mount(volume: str) -> tuple[str, str, bool]:
    """Source, target, and whether it is read-only."""
    source, target, *mode = volume.split(":")
    return source, target, mode == ["ro"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    # Another run of this test on the machine has another process id, and so other addresses.
    one, two = divmod(os.getpid() % 60_000, 250)
    return Machine(tmp_path, f"127.{one + 2}.{two + 2}")


async def test_the_services_run_as_written_until_a_row_is_in_the_database(machine: Machine) -> None:
    for name in COMPOSE["volumes"]:
        machine.volume(name)
    await _complete(machine, "init", SERVICES["init"]["command"])
    programs = [
        Program(
            name,
            machine.command(name, SERVICES[name]["command"]),
            machine.environment(name),
            machine.directory,
            machine.directory / f"{name}.log",
        )
        for name in PROCESSES
    ]
    async with supervising(programs, Bounds(longest_delay=2.0)):
        try:
            async with asyncio.timeout(75):
                await _healthy(machine)
                await _first_row(machine)
        except TimeoutError:
            logs = "\n".join(f"--- {program.name}\n{program.log.read_text()[-1500:]}" for program in programs)
            pytest.fail(f"no row arrived in time\n{logs}")


async def _complete(machine: Machine, service: str, words: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *machine.command(service, words),
        env=machine.environment(service),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


async def _healthy(machine: Machine) -> None:
    """Every service's health check succeeds."""
    waiting = list(PROCESSES)
    while waiting:
        name = waiting.pop(0)
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        probe = await asyncio.create_subprocess_exec(
            *machine.command(name, words),
            env=machine.environment(name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if await probe.wait() != 0:
            waiting.append(name)
            await asyncio.sleep(0.1)


async def _first_row(machine: Machine) -> None:
    while True:
        if await asyncio.to_thread(_records, machine.volume("state-writer")):
            return
        await asyncio.sleep(0.1)


def _records(directory: Path) -> int:
    for database in directory.glob("*.db"):
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            try:
                return int(connection.execute("SELECT sum(records) FROM products").fetchone()[0] or 0)
            except sqlite3.OperationalError:
                # The writer is just making its tables.
                continue
    return 0


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_nothing_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    if name == "agent":
        assert set(service["cap_add"]) == {"NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"}
        assert "ports" not in service
    else:
        assert "cap_add" not in service and "user" not in service and "pid" not in service
        assert re.search(r"^USER (?!0|root)", DOCKERFILE, re.MULTILINE)


def test_a_state_belongs_to_one_service() -> None:
    users: dict[str, list[str]] = {}
    for name, service in SERVICES.items():
        for source, _, read_only in map(mount, service["volumes"]):
            if source.startswith("/"):
                assert read_only, f"{name} may write to the host's {source}"
            elif source == "trust":
                assert read_only == (name != "init")
            else:
                users.setdefault(source, []).append(name)
    assert users.pop("root") == ["init"]
    for volume, names in users.items():
        owners = [name for name in names if name != "init"]
        assert len(owners) == 1, f"{volume} is seen by {owners}"
        assert volume.startswith(("authority-", "join-")) or "init" not in names
    assert {*users, "root", "trust"} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", PROCESSES)
def test_a_service_waits_for_its_join_token_and_is_probed(name: str) -> None:
    service = SERVICES[name]
    assert service["depends_on"] == {"init": {"condition": "service_completed_successfully"}}
    assert service["healthcheck"]["test"][:3] == ["CMD", "python", "-m"]
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_a_mounted_directory_belongs_to_the_containers_user(name: str) -> None:
    made = re.search(r"for directory in (.*?); do", DOCKERFILE.replace("\\\n", " "))
    assert made is not None
    directories = {*made[1].split(), "/agent-state"}
    for source, target, _ in map(mount, SERVICES[name]["volumes"]):
        # A named volume takes its owner from the image's directory; /trust is read only.
        assert source.startswith("/") or target in directories or target == "/trust"


def test_nothing_secret_stands_in_the_file() -> None:
    text = (ROOT / "compose.yaml").read_text()
    assert not re.search(r"join-[\w-]{20,}@|BEGIN .*KEY|eyJ", text)


def test_only_loopback_publishes_ports() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)

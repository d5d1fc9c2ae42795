"""The processes of a mesh on one machine: a table, and the environment that each of them gets."""

import json
import os
import random
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from telltale.cli.home import DATABASE, WRITER, Home, Mesh
from telltale.cli.supervisor import Program
from telltale.errors import Precondition
from telltale.naming import OPERATORS, PLATFORM, SpiffeId, server_name, trust_domain

LOOPBACK = "127.0.0.1"
GATEWAY = "gateway"
AGENT = "agent"
RECEIVER = "receiver"
# Ports that the kernel gives to no outgoing connection, so that none is lost before its process listens.
_PORTS = range(20000, 32768)
# What a child inherits beside Telltale's own settings; the rest of the environment is nobody's business.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "TMPDIR", "PYTHONPATH", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Process:
    """One process: its program, whom it speaks for, and what it has to be told.

    `addresses` map a setting to the process whose address it takes, `files` one to a file of its directory,
    `told` one to its value.
    """

    name: str
    module: str
    domain: str
    path: str
    # Server that it is; None when it binds no port.
    serves: str | None = None
    aliases: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    # Whether it joins over the wire as on any other host, not with a join token that is made here.
    joins: bool = False

    def spiffe_id(self, mesh: str) -> SpiffeId:
        return SpiffeId(trust_domain(self.domain, mesh), self.path)

    def dns(self, mesh: str) -> tuple[str, ...]:
        """The server names in its certificate."""
        if self.serves is None:
            return ()
        return (server_name(self.serves, trust_domain(self.domain, mesh)), *self.aliases)


def processes(host: str, manifest: Path | None = None) -> tuple[Process, ...]:
    """Everything but the authorities, in the order of the flow backwards: sources are the last.

    With a manifest there is a receiver, which binds what it lists.
    """
    receivers = () if manifest is None else (_receiver(host, manifest),)
    return (
        Process("platform", "services.platform", PLATFORM, "/service", "service"),
        Process(GATEWAY, "gateway", PLATFORM, "/gateway", "gateway", ("localhost",)),
        Process("servers", "services.servers", "servers", "/service", "service"),
        Process("network", "services.network", "network", "/service", "service"),
        Process(
            WRITER, "services.writer", PLATFORM, "/writer", "writer", files={"TELLTALE_DATABASE": DATABASE}
        ),
        Process("analysis", "services.analysis", "analysis", "/service", "service"),
        Process(
            AGENT,
            "agent",
            "servers",
            f"/agent/{host}",
            addresses={"TELLTALE_SERVICE": "servers"},
            joins=True,
        ),
        *receivers,
    )


def _receiver(host: str, manifest: Path) -> Process:
    return Process(
        RECEIVER,
        "agent.receiver",
        "network",
        f"/receiver/{host}",
        addresses={"TELLTALE_SERVICE": "network"},
        told={"TELLTALE_MANIFEST": str(manifest)},
        joins=True,
    )


@dataclass(frozen=True)
class Plan:
    """A mesh about to run: its processes and their addresses."""

    home: Home
    mesh: str
    processes: tuple[Process, ...]
    addresses: Mapping[str, str]
    # IPv4 address that everything listens on.
    address: str = LOOPBACK
    # File by which people log in; nobody does without one.
    people: Path | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains with an authority, the operators included."""
        return tuple(dict.fromkeys((*(process.domain for process in self.processes), OPERATORS)))

    def running(self) -> Mesh:
        """What the command line has to know."""
        return Mesh(
            name=self.mesh,
            gateway=self.addresses[GATEWAY],
            authority=self.addresses[authority(OPERATORS)],
            enrollment=self.addresses[enrollment(OPERATORS)],
            pid=os.getpid(),
            authorities={domain: self.addresses[authority(domain)] for domain in self.domains},
        )

    def programs(self) -> list[Program]:
        """What the supervisor runs, the authorities first."""
        # They listen in the order of the list: the last one's port says that all are ready.
        last = self.addresses[enrollment(self.domains[-1])]
        authorities = self._program("authorities", "certs", ("serve",), self._authorities(), last)
        return [authorities, *(self._program_of(process) for process in self.processes)]

    def _program_of(self, process: Process) -> Program:
        state = self.home.state(process.name)
        environment = {
            "TELLTALE_MESH": self.mesh,
            "TELLTALE_STATE": str(state),
            "TELLTALE_TRUST": str(self.home.trust),
            "TELLTALE_AUTHORITY": self.addresses[authority(process.domain)],
            "TELLTALE_ENROLLMENT": self.addresses[enrollment(process.domain)],
            "TELLTALE_GATEWAY": self.addresses[GATEWAY],
            "TELLTALE_PLATFORM": self.addresses["platform"],
            **{name: self.addresses[target] for name, target in process.addresses.items()},
            **{name: str(state / file) for name, file in process.files.items()},
            **process.told,
        }
        if not process.joins:
            environment["TELLTALE_JOIN_TOKEN_FILE"] = str(join_token(self.home, process))
        if process.name == GATEWAY:
            # Where every domain service of this plan listens, and nowhere else.
            environment["TELLTALE_DOMAIN_ADDRESSES"] = f"{self.address}/32"
        if process.serves is not None:
            environment["TELLTALE_LISTEN"] = self.addresses[process.name]
            environment["TELLTALE_ADVERTISE"] = self.addresses[process.name]
        return self._program(process.name, process.module, (), environment, self.addresses.get(process.name))

    def _authorities(self) -> dict[str, str]:
        services = {process.domain: process.name for process in self.processes if process.path == "/service"}
        served = [
            {
                "directory": str(self.home.authority(domain)),
                "listen": self.addresses[authority(domain)],
                "enrollment": self.addresses[enrollment(domain)],
                "service_address": self.addresses.get(services.get(domain, ""), ""),
                "peers": {
                    other: self.addresses[authority(other)] for other in self.domains if other != domain
                },
                **(self._people() if domain == OPERATORS else {}),
            }
            for domain in self.domains
        ]
        return {
            "TELLTALE_AUTHORITIES": json.dumps(served),
            "TELLTALE_TRUST": str(self.home.trust),
            "TELLTALE_PLATFORM": self.addresses["platform"],
        }

    def _people(self) -> dict[str, str]:
        """What the operators' authority has to know beside the others."""
        told = {"gateway_address": self.addresses[GATEWAY]}
        return told if self.people is None else {**told, "people": str(self.people)}

    def _program(
        self,
        name: str,
        module: str,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        address: str | None,
    ) -> Program:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in _INHERITED or name.startswith("TELLTALE_")
        }
        return Program(
            name=name,
            # -P: the current directory is no place to import from.
            command=(sys.executable, "-P", "-m", module, *arguments),
            environment={**inherited, "PYTHONUNBUFFERED": "1", **environment},
            directory=self.home.state(name),
            log=self.home.logs / f"{name}.log",
            port=int(address.rpartition(":")[2]) if address else None,
        )


def plan(home: Home, mesh: str, port: int, address: str = LOOPBACK, manifest: Path | None = None) -> Plan:
    """Gives every process its address; raises Precondition when the gateway's port is taken."""
    if not is_free(0, address):
        raise Precondition(f"{address} is no address of this machine; choose another --address")
    if not is_free(port, address):
        raise Precondition(f"port {port} is taken; choose another with --port")
    members = processes(host_name(), manifest)
    servers = [process.name for process in members if process.serves and process.name != GATEWAY]
    draft = Plan(home, mesh, members, {})
    names = [
        *servers,
        *(authority(domain) for domain in draft.domains),
        *(enrollment(domain) for domain in draft.domains),
    ]
    ports = dict(zip(names, free_ports(len(names), but=port, address=address), strict=True))
    addresses = {name: f"{address}:{number}" for name, number in {**ports, GATEWAY: port}.items()}
    return Plan(home, mesh, members, addresses, address)


def authority(domain: str) -> str:
    """Name of the address of a domain's authority."""
    return f"authority of {domain}"


def enrollment(domain: str) -> str:
    """Name of the address where identities of a domain enrol."""
    return f"enrollment of {domain}"


def join_token(home: Home, process: Process) -> Path:
    """File with the join token for the first start of a process."""
    return home.state(process.name) / "join-token"


def host_name(name: str | None = None) -> str:
    """This host's name as a part of a SPIFFE path."""
    safe = re.sub(r"[^a-z0-9._-]", "-", (socket.gethostname() if name is None else name).lower())
    return safe.strip(".-")[:63] or "host"


def is_free(port: int, address: str = LOOPBACK) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def free_ports(count: int, *, but: int, address: str = LOOPBACK) -> Sequence[int]:
    """Ports that nobody listens on, all different."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                return found
            probe = held.enter_context(socket.socket())
            try:
                if port != but:
                    probe.bind((address, port))
                    found.append(port)
            except OSError:
                continue
    raise Precondition(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}; stop something")

"""Nothing that a server sends can make an agent do anything: every message is known, and none is an order."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from telltale.api.mesh.v1 import access_pb2, authority_pb2, catalog_pb2, ingest_pb2, schemas_pb2, stream_pb2

ROOT = Path(__file__).parents[2]
PROTOS = (access_pb2, authority_pb2, catalog_pb2, ingest_pb2, schemas_pb2, stream_pb2)

# All that a server can say to an agent, and what the agent does with it. Who adds a field has to say here why
# it is no order: nothing that is run, opened, dialled, collected or changed because a server said so.
SAID: dict[str, dict[str, str]] = {
    # Which of its own batches are on disk elsewhere: they are forgotten. Names no others.
    "PushResponse": {"acks": "Ack", "refusals": "Refusal"},
    "Ack": {"product": "string", "epoch": "uint64", "sequence": "uint64"},
    # Why one of its own batches was not taken: it is given up, or sent again. The text goes into the log and,
    # bounded, into the next header.
    "Refusal": {
        "product": "string",
        "epoch": "uint64",
        "sequence": "uint64",
        "reason": "RefusalReason",
        "detail": "string",
        "final": "bool",
        "retry_time": "google.protobuf.Timestamp",
    },
    "google.protobuf.Timestamp": {"seconds": "int64", "nanos": "int32"},
    # Where its chains stand: they begin anew above that.
    "ChainsResponse": {"chains": "ChainHead"},
    "ChainHead": {"product": "string", "epoch": "uint64", "sequence": "uint64", "header_sha256": "bytes"},
    # Not read.
    "RegisterSchemaResponse": {"sha256": "bytes"},
    # Its own next certificate, which has to fit its key, its name and the root that it has. The addresses are
    # taken once, by the operator who joins the host and sees them, and have to be host and port.
    "EnrollResponse": {
        "certificates": "bytes",
        "expire_time": "google.protobuf.Timestamp",
        "mesh": "string",
        "root_certificates": "bytes",
        "authority_address": "string",
        "service_address": "string",
    },
    "RenewResponse": {"certificates": "bytes", "expire_time": "google.protobuf.Timestamp"},
    # Whom the mesh does not believe, signed by its trust domain. The kit's code for it comes along; an agent
    # believes nobody's batches and leaves it off.
    "WatchDistrustResponse": {"list": "SignedDistrustList"},
    "SignedDistrustList": {"statement": "string", "entries": "bytes"},
    # A text that it shows to its domain service.
    "IssueTokenResponse": {"token": "string", "expire_time": "google.protobuf.Timestamp"},
}
# What an agent calls, and nothing else of these services.
CALLED = {
    "Ingest.Chains",
    "Ingest.Push",
    "Schemas.Register",
    "Authority.Enroll",
    "Authority.Renew",
    "Authority.IssueToken",
    "Authority.WatchDistrust",
}
# Ways out of a process that is to observe: programs, code of others, servers, other networks.
FORBIDDEN = {
    "subprocess",
    "multiprocessing",
    "pty",
    "code",
    "codeop",
    "runpy",
    "pickle",
    "marshal",
    "shelve",
    "ctypes",
    "xmlrpc",
    "http",
    "urllib",
    "httpx",
    "requests",
    "socketserver",
    "smtplib",
    "ftplib",
    "telnetlib",
}
# Functions that run a program or a text, bind a port or load a name that came from outside.
FORBIDDEN_CALLS = {
    "system",
    "popen",
    "fork",
    "forkpty",
    "posix_spawn",
    "posix_spawnp",
    "execv",
    "execve",
    "execvp",
    "execvpe",
    "execl",
    "spawnv",
    "eval",
    "exec",
    "compile",
    "__import__",
    "import_module",
    "create_subprocess_exec",
    "create_subprocess_shell",
    "start_server",
    "start_unix_server",
    "create_server",
    "create_datagram_endpoint",
    "bind",
    "listen",
    "add_secure_port",
    "add_insecure_port",
}
# The one place of each program that binds a socket after all: the agent's is of the kernel's own kind, which
# no network reaches; a receiver's is for the datagrams of devices, where its manifest says.
BINDS = {"agent.__main__": {"agent.kernel.netlink"}, "agent.receiver.__main__": {"agent.receiver.ports"}}


def source_of(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


@cache
def imported_by(program: str) -> dict[str, ast.Module]:
    """A program and all that it imports, however far away, with the packages around."""
    graph = grimp.build_graph("agent", "telltale", cache_dir=None)
    found: set[str] = set()
    wanted = {program}
    while wanted:
        module = wanted.pop()
        found.add(module)
        around = {module.rpartition(".")[0]} - {""}
        wanted |= (graph.find_modules_directly_imported_by(module) | around) - found
    assert {"telltale.source.pusher", "telltale.identity.enrolment"} <= found
    return {module: ast.parse(source_of(module)) for module in found if not module.startswith("telltale.api")}


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    return imported_by("agent.__main__")


def test_every_module_of_the_agent_is_looked_at_and_none_of_a_receivers_is_one(
    modules: dict[str, ast.Module],
) -> None:
    graph = grimp.build_graph("agent", cache_dir=None)
    left = {"agent", *graph.find_descendants("agent")} - modules.keys()
    assert "agent.receiver" in left and "agent.runner" not in left
    assert left <= imported_by("agent.receiver.__main__").keys()


def services() -> dict[str, ServiceDescriptor]:
    return {name: service for proto in PROTOS for name, service in proto.DESCRIPTOR.services_by_name.items()}


def stubs(modules: dict[str, ast.Module]) -> set[str]:
    """Every client that these modules name."""
    names = {
        name
        for tree in modules.values()
        for node in ast.walk(tree)
        for name in (getattr(node, "attr", None), getattr(node, "id", None))
        if isinstance(name, str)
    }
    return {name.removesuffix("Stub") for name in names if name.endswith("Stub") and name != "Stub"}


def methods() -> Iterator[MethodDescriptor]:
    known = services()
    for name in sorted(CALLED):
        service, _, method = name.partition(".")
        yield known[service].methods_by_name[method]


def said(message: Descriptor, found: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Every message that is in this one, and each of its fields."""
    name = _short(message.full_name)
    if name not in found:
        found[name] = {field.name: _type(field) for field in message.fields}
        for field in message.fields:
            if field.message_type is not None:
                said(field.message_type, found)
    return found


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return _short(field.message_type.full_name)
    if field.enum_type is not None:
        return _short(field.enum_type.full_name)
    names = {
        getattr(FieldDescriptor, name): name for name in dir(FieldDescriptor) if name.startswith("TYPE_")
    }
    return names[field.type].removeprefix("TYPE_").lower()


def _short(name: str) -> str:
    return name.removeprefix("telltale.api.mesh.v1.")


def test_an_agent_is_a_client_of_ingest_schemas_and_its_authority_alone(
    modules: dict[str, ast.Module],
) -> None:
    assert stubs(modules) == {"Ingest", "Schemas", "Authority"}
    # Whoever calls without a stub names the method as a text.
    texts = [
        node.value
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [text for text in texts if text.startswith(("/telltale.", "/grpc."))]


def test_an_agent_calls_these_methods_and_no_others(modules: dict[str, ast.Module]) -> None:
    used = {
        node.attr
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    known = {
        f"{name}.{method.name}"
        for name in ("Ingest", "Schemas", "Authority")
        for method in services()[name].methods
    }
    # Names of methods are capitalised, so that no attribute of another object passes for one.
    assert {name for name in known if name.partition(".")[2] in used} == CALLED


def test_every_message_that_a_server_can_send_to_an_agent_has_been_reviewed() -> None:
    found: dict[str, dict[str, str]] = {}
    for method in methods():
        said(method.output_type, found)
    assert found == SAID, "say in SAID what the agent does with it, and why it is no order"


def test_no_message_to_an_agent_can_carry_another_of_any_kind() -> None:
    for message in SAID:
        assert "Any" not in message and "Struct" not in message
    for method in methods():
        for name, fields in said(method.output_type, {}).items():
            # A map or a oneof of texts would be room for orders that no review of fields sees.
            assert not [kind for kind in fields.values() if kind.endswith("Entry")], name


@pytest.mark.parametrize("program", BINDS)
def test_an_agent_imports_nothing_that_runs_serves_or_dials_otherwise(program: str) -> None:
    for module, tree in imported_by(program).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module or ""}
            else:
                continue
            assert not {name.partition(".")[0] for name in names} & FORBIDDEN, (module, names)


@pytest.mark.parametrize("program", BINDS)
def test_no_line_of_an_agent_runs_a_program_or_a_text_or_binds_a_port(program: str) -> None:
    binding = set()
    for module, tree in imported_by(program).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
                if name == "compile" and isinstance(node.func, ast.Attribute):
                    continue  # a regular expression
                if name == "bind":
                    binding.add(module)
                    continue
                assert name not in FORBIDDEN_CALLS, (module, node.lineno, name)
    assert binding == BINDS[program]

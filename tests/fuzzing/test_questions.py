"""Whatever text comes with a question: filters, page tokens, names, and who asks."""

from collections.abc import Callable
from functools import cache

from telltale.api.mesh.v1.stream_pb2 import ListRequest
from telltale.domain.cedar import Principal
from telltale.domain.filters import compile_filter
from telltale.domain.listing import PageToken
from telltale.domain.policy import ACTIONS, Policy
from telltale.errors import LONGEST_MESSAGE
from telltale.naming import SpiffeId, check_group, check_pattern, matches
from tests.fuzzing import world
from tests.fuzzing.campaign import Share, Target, run, shares
from tests.support.batches import CONTRACTS, DISK_USAGE, INVENTORY, host
from tests.support.domain import ROOT

LOG = "log"


def filters() -> list[bytes]:
    return [
        b'host_name = "web1" AND source : "agent" AND time > "2026-01-31T12:00:00Z"',
        b'addresses = "10.0.0.1" AND host_name != "a\\"b\\\\" AND os_name : ""',
        b"cpu_count >= 1.5e3 AND memory_bytes < -9223372036854775808",
    ]


def a_filter(data: bytes) -> bool:
    """It is a plain yes or no to any record."""
    wanted = compile_filter(data.decode("utf-8", "replace"), CONTRACTS[INVENTORY].record)
    for record in (host("web1", addresses=["10.0.0.1"]), host("")):
        assert wanted("spiffe://servers.telltale.test/agent/web1", record) in (True, False)
    return True


def tokens() -> list[bytes]:
    return [PageToken(7, 1_000_000).text(ListRequest(), LOG).encode()]


def a_page_token(data: bytes) -> bool:
    """It names a place that the database takes."""
    token = PageToken.read(ListRequest(page_token=data.decode("utf-8", "replace")), LOG)
    if token.position is not None and token.after is not None:
        assert 0 <= token.position < 1 << 63 and 0 <= token.after < 1 << 63
    return True


def patterns() -> list[bytes]:
    return [b"servers.*", b"*.disk_usage", b"servers.disk_usage"]


def a_pattern(data: bytes) -> bool:
    return matches(DISK_USAGE, (check_pattern(data.decode("utf-8", "replace")),)) in (True, False)


@cache
def policy() -> Policy:
    return Policy.load(ROOT / "services/servers/policy.cedar")


def callers() -> list[bytes]:
    mesh = world.mesh().name
    return [
        f"spiffe://servers.{mesh}/agent/web1".encode(),
        f"spiffe://operators.{mesh}/alice responders".encode(),
        f"spiffe://platform.{mesh}/writer on-call sre".encode(),
    ]


def a_caller(data: bytes) -> bool:
    """Whoever asks gets an answer with its reason; only agents push, and nobody of another mesh may."""
    name, *groups = data.decode("utf-8", "replace").split(" ")
    principal = Principal(SpiffeId.parse(name), frozenset(map(check_group, groups)))
    trust_domain = principal.spiffe_id.trust_domain
    for action in ACTIONS[:4]:
        decision = policy().decide(principal, action, CONTRACTS[DISK_USAGE], world.mesh().name)
        assert 0 < len(decision.reason) <= LONGEST_MESSAGE + 1_000
        assert not decision.allowed or trust_domain.endswith(f".{world.mesh().name}")
        if decision.allowed and action == "push":
            assert principal.spiffe_id.path.startswith("/agent/"), name
    return True


def rules() -> list[bytes]:
    return [policy().text.encode()]


def a_policy(data: bytes) -> bool:
    """A policy file that somebody damaged does not start a service."""
    return bool(Policy(data.decode("utf-8", "replace")).text)


@shares(
    Target("filter", 60_000, filters, a_filter, text=True),
    Target("page token", 60_000, tokens, a_page_token, text=True),
    Target("pattern of products", 40_000, patterns, a_pattern, text=True),
    Target("caller of a policy", 10_000, callers, a_caller, text=True),
    Target("policy file", 2_000, rules, a_policy, text=True),
)
def test_a_question_is_answered_or_refused(
    share: Share, record_property: Callable[[str, object], None]
) -> None:
    run(share, record_property)

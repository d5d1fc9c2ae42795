"""The policies that ship grant what their comments say; wrong ones are refused with their line."""

import re
from pathlib import Path

import pytest

from telltale.api.mesh.v1.product_pb2 import Classification
from telltale.contract.image import own_image
from telltale.contract.product import Contract, contracts_in
from telltale.domain.cedar import Principal
from telltale.domain.policy import ACTIONS, Policy
from telltale.errors import ConfigurationError, InvalidInput
from telltale.naming import SpiffeId

MESH = "telltale.internal"
SERVICES = Path(__file__).parents[2] / "services"
READ = {"discover", "subscribe", "list"}


def who(domain: str, path: str, mesh: str = MESH, groups: tuple[str, ...] = ()) -> Principal:
    return Principal(SpiffeId.parse(f"spiffe://{domain}.{mesh}{path}"), frozenset(groups))


def contracts(domain: str) -> tuple[Contract, ...]:
    return contracts_in(own_image(domain))


def policy(domain: str) -> Policy:
    return Policy.load(SERVICES / domain / "policy.cedar")


def allowed(domain: str, principal: Principal, contract: Contract) -> set[str]:
    rules = policy(domain)
    return {action for action in ACTIONS if rules.decide(principal, action, contract, MESH).allowed}


@pytest.mark.parametrize("domain", ["servers", "network", "platform", "analysis"])
@pytest.mark.parametrize(
    ("principal", "may"),
    [
        (who("platform", "/gateway"), {"discover", "subscribe"}),
        (who("platform", "/writer"), READ),
        (who("operators", "/ada"), READ),
        (who("cloud-iam", "/agent/h1"), set()),
        (who("servers", "/service"), set()),
    ],
)
def test_every_reader_may_read_and_nobody_may_act_or_replay(
    domain: str, principal: Principal, may: set[str]
) -> None:
    # Servers tell the mesh how they fare; sources and people do not.
    server = principal.spiffe_id.path in ("/service", "/gateway", "/writer")
    pushes = {"push"} if domain == "platform" and server else set()
    for contract in contracts(domain):
        assert allowed(domain, principal, contract) == may | pushes, contract.name


CLASSIFICATIONS = PUBLIC, INTERNAL, CONFIDENTIAL, PERSONAL = (
    Classification.CLASSIFICATION_PUBLIC,
    Classification.CLASSIFICATION_INTERNAL,
    Classification.CLASSIFICATION_CONFIDENTIAL,
    Classification.CLASSIFICATION_PERSONAL,
)


def seen(rules: Policy, principal: Principal, contract: Contract) -> set[Classification]:
    return {one for one in CLASSIFICATIONS if rules.sees(principal, contract, one, MESH).allowed}


@pytest.mark.parametrize("domain", ["servers", "network", "platform", "analysis"])
@pytest.mark.parametrize(
    ("principal", "sees"),
    [
        (who("platform", "/gateway"), set(CLASSIFICATIONS)),
        (who("platform", "/writer"), set(CLASSIFICATIONS)),
        (who("operators", "/ada"), {PUBLIC, INTERNAL, CONFIDENTIAL}),
        (who("operators", "/ada", groups=("responders",)), set(CLASSIFICATIONS)),
        (who("operators", "/ada", groups=("respond", "on-call")), {PUBLIC, INTERNAL, CONFIDENTIAL}),
        (who("cloud-iam", "/ada", groups=("responders",)), set()),
        (who("servers", "/agent/h1", groups=("responders",)), set()),
        (who("platform", "/gateway2"), set()),
    ],
)
def test_everybody_sees_what_their_work_needs_and_a_foreign_group_shows_nothing(
    domain: str, principal: Principal, sees: set[Classification]
) -> None:
    rules = policy(domain)
    for contract in contracts(domain):
        assert seen(rules, principal, contract) == sees, contract.name


def test_a_rule_about_sight_does_not_fit_what_is_no_sight() -> None:
    rule = """@id("a") permit (principal, action == Action::"list", resource)
              when { context.classification == "public" };"""
    with pytest.raises(ConfigurationError, match="classification"):
        Policy(rule)


@pytest.mark.parametrize("domain", ["servers", "platform"])
def test_the_analysis_service_reads_what_others_publish(domain: str) -> None:
    for contract in contracts(domain):
        service = who("analysis", "/service")
        assert READ <= allowed(domain, service, contract)
        assert seen(policy(domain), service, contract) == set(CLASSIFICATIONS)


def test_agents_publish_to_their_own_domain_and_read_nothing() -> None:
    for contract in contracts("servers"):
        assert allowed("servers", who("servers", "/agent/h1"), contract) == {"push"}
        assert allowed("servers", who("network", "/agent/h1"), contract) == set()


def test_a_workload_that_is_called_like_an_agent_is_none() -> None:
    contract = contracts("servers")[0]
    for path in ("/agent", "/agents/h1", "/x/agent/h1"):
        assert allowed("servers", who("servers", path), contract) == set()


def test_the_analysis_service_publishes_to_its_own_domain_only() -> None:
    foreign, (finding, *_) = contracts("servers")[0], contracts("analysis")
    service = who("analysis", "/service")
    assert allowed("analysis", service, finding) == {"push"}, "and takes no input from its own products"
    assert allowed("analysis", service, foreign) == set()
    assert allowed("analysis", who("analysis", "/agent/h1"), finding) == set()


def test_a_principal_of_another_mesh_is_denied() -> None:
    contract = contracts("platform")[0]
    decision = policy("platform").decide(who("servers", "/agent/h1", "evil.example"), "push", contract, MESH)
    assert not decision.allowed
    assert "is no trust domain of the mesh" in decision.reason


def test_a_decision_names_the_rule_that_made_it() -> None:
    contract = contracts("servers")[0]
    rules = policy("servers")
    permitted = rules.decide(who("platform", "/writer"), "list", contract, MESH)
    assert permitted.reason == "permitted by writer-stores"
    denied = rules.decide(who("platform", "/writer"), "push", contract, MESH)
    assert denied.reason.startswith(f"no policy permits `push` on {contract.name} (")
    assert denied.reason.endswith("to spiffe://platform.telltale.internal/writer")


def test_a_rule_that_forbids_wins_and_is_named() -> None:
    rules = Policy(
        '@id("all") permit (principal, action, resource);\n'
        '@id("not-personal") forbid (principal, action, resource) when { resource.kind == "samples" };'
    )
    by_kind = {contract.kind: contract for contract in contracts("servers")}
    answers = {kind: rules.decide(who("a", "/b"), "list", one, MESH) for kind, one in by_kind.items()}
    assert answers[1].reason == "forbidden by not-personal"
    assert answers[2].allowed and answers[3].allowed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('// first;\n@id("a")\npermit (principal, action, oops);', "policy.cedar, line 2: found an invalid"),
        (
            '@id("a")\npermit (principal, action, resource);\n\npermit (',
            "policy.cedar, line 4: unexpected end",
        ),
        (
            '@id("a;")\npermit (principal,\naction == Action::"pusch", resource);',
            "line 1: unrecognized action",
        ),
        ('@id("a") permit (principal, action, resource) when { resource.colour == "" };', "`colour`"),
        ("permit (principal, action, resource);", "one has none"),
        ('@id("a") permit (principal, action, resource);' * 2, "'a' is used twice"),
        ('@id("a', "policy.cedar"),
    ],
)
def test_a_wrong_policy_is_refused_at_the_start_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Policy(text)


def test_a_missing_policy_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no\.cedar cannot be read"):
        Policy.load(tmp_path / "no.cedar")


def test_an_unknown_action_is_a_mistake_of_the_caller_not_a_denial() -> None:
    with pytest.raises(InvalidInput, match="is no action"):
        Policy("").decide(who("a", "/b"), "pull", contracts("servers")[0], MESH)


def test_no_rule_names_a_product() -> None:
    names = [
        contract.name for domain in ("servers", "platform", "analysis") for contract in contracts(domain)
    ]
    for path in SERVICES.glob("*/policy.cedar"):
        rules = "".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("//"))
        assert "resource.name" not in rules
        assert not [name for name in names if name in rules], path


def test_a_rule_may_speak_of_groups_and_only_those_in_the_group_get_what_it_permits() -> None:
    rules = Policy(
        """@id("on-call-reads") permit (principal in Group::"on-call", action == Action::"list", resource);"""
    )
    contract = contracts("servers")[0]
    in_it, beside = (
        who("operators", "/ada", groups=("on-call", "dev")),
        who("operators", "/bob", groups=("dev",)),
    )
    assert rules.decide(in_it, "list", contract, MESH).allowed
    assert not rules.decide(in_it, "subscribe", contract, MESH).allowed
    assert not rules.decide(beside, "list", contract, MESH).allowed
    assert not rules.decide(who("operators", "/ada"), "list", contract, MESH).allowed

"""A rule that permits more than the classification does is found and named; what is delivered has none."""

from pathlib import Path

import pytest

from telltale.contract.image import own_image
from telltale.contract.product import Contract, contracts_in
from telltale.domain.policy import Policy
from telltale.domain.probes import excesses

MESH = "telltale.internal"
DOMAINS = ("servers", "cloud_iam", "platform", "analysis", "operators")
SERVICES = Path(__file__).parents[2] / "services"
SERVERS = contracts_in(own_image("servers"))
CPU, ACCOUNTS = (
    next(one for one in SERVERS if one.name == name) for name in ("servers.cpu", "servers.accounts")
)
PROCESSES = next(one for one in contracts_in(own_image("platform")) if one.name == "mesh.processes")
# Everybody who is no operator.
WORKLOADS = (
    "any workload of servers, any workload of cloud_iam, any workload of platform, any workload of analysis"
)


def told(rule: str, contract: Contract) -> list[str]:
    """What is wrong with one rule."""
    found = list(excesses(Policy(f'@id("it") {rule}'), [contract], MESH, DOMAINS))
    assert all(
        one.element == 'the rule @id("it")' and one.rule == "policy" and one.mandatory for one in found
    )
    return [one.wrong for one in found]


@pytest.mark.parametrize("domain", ["servers", "network", "platform", "analysis"])
def test_the_policies_that_are_delivered_permit_no_more_than_they_should(domain: str) -> None:
    policy = Policy.load(SERVICES / domain / "policy.cedar")
    assert [str(one) for one in excesses(policy, contracts_in(own_image(domain)), MESH, DOMAINS)] == []


def test_a_rule_for_everybody_is_named_with_what_it_permits_and_to_whom() -> None:
    assert told("permit (principal, action, resource);", CPU) == [
        f"permits `subscribe`, `list`, `see internal` to {WORKLOADS}; "
        f"permits `act`, `replay` to {WORKLOADS}, an operator in no group; "
        "permits `push` to any workload of cloud_iam, any workload of platform, any workload of analysis, "
        "an operator in no group"
    ]


def test_what_is_personal_is_for_named_services_and_for_groups() -> None:
    see = 'permit (principal in Domain::"%s", action == Action::"see", resource) %s;'
    personal = ["permits `see personal` to an operator in no group"]
    assert told(see % ("operators", ""), ACCOUNTS) == personal
    assert told(see % ("operators", 'when { context.classification == "internal" }'), ACCOUNTS) == []
    assert told(see % ("operators", 'when { principal in Group::"hr" }'), ACCOUNTS) == []
    assert told(see % ("operators", 'when { principal.path == "/ann" }'), ACCOUNTS) == []
    assert told(see % ("analysis", 'when { principal.path == "/service" }'), ACCOUNTS) == []
    (wrong,) = told(see % ("analysis", ""), ACCOUNTS)
    assert wrong == "permits `see internal`, `see personal` to any workload of analysis"


def test_a_group_alone_names_nobody_because_every_authority_may_claim_it() -> None:
    (wrong,) = told('permit (principal in Group::"hr", action == Action::"see", resource);', ACCOUNTS)
    assert "any workload of cloud_iam that its authority puts into a group" in wrong
    assert "operator" not in wrong


def test_agents_are_for_telling_and_not_for_reading() -> None:
    agents = """permit (principal in Domain::"servers", action in [%s], resource)
                when { principal.path like "/agent/*" };"""
    assert told(agents % 'Action::"push"', CPU) == []
    assert told(agents % 'Action::"push", Action::"list"', CPU) == ["permits `list` to any agent of servers"]


def test_a_product_that_is_open_may_hear_everybody_but_people() -> None:
    assert told('permit (principal, action == Action::"push", resource);', PROCESSES) == [
        "permits `push` to an operator in no group"
    ]


def test_a_rule_that_another_one_forbids_is_no_excess() -> None:
    rules = '@id("a") permit (principal, action, resource); @id("b") forbid (principal, action, resource);'
    assert list(excesses(Policy(rules), SERVERS, MESH, DOMAINS)) == []


def test_the_cure_is_told() -> None:
    policy = Policy('@id("it") permit (principal, action, resource);')
    (one,) = excesses(policy, [CPU], MESH, DOMAINS)
    assert str(one).startswith('servers.cpu breaks the rule `policy`: the rule @id("it") permits `subscribe`')
    assert str(one).endswith("by their path, or to a group of the operators")

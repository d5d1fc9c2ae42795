"""What a policy permits to those whom it does not name: nobody gets more than the classification allows.

The policy is asked about identities that no rule can mean. What one of them may do, it may by a rule that is
wider than a name or a group.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from telltale import naming
from telltale.api.mesh.v1.product_pb2 import Classification
from telltale.contract.governance import POLICY, Violation
from telltale.contract.product import Contract
from telltale.domain.cedar import Principal
from telltale.domain.policy import ACTIONS, Policy, word
from telltale.naming import SpiffeId

# No rule has a reason to name it.
_NOBODY = "nobody-in-particular"
_READING = ("subscribe", "list")
# What anybody in the mesh may see, and what any operator may.
_FOR_ALL = frozenset({Classification.CLASSIFICATION_PUBLIC})
_FOR_OPERATORS = _FOR_ALL | {
    Classification.CLASSIFICATION_INTERNAL,
    Classification.CLASSIFICATION_CONFIDENTIAL,
}
_GROUP = re.compile(r'\bGroup::"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class _Probe:
    """An identity, and what one like it may do."""

    # In words.
    who: str
    domain: str
    principal: Principal
    sees: frozenset[Classification]
    reads_all: bool = False
    pushes: bool = False


def excesses(
    policy: Policy, contracts: Iterable[Contract], mesh: str, domains: Iterable[str]
) -> Iterator[Violation]:
    """Where the policy of a domain permits more than it should; `domains` are all of the mesh."""
    # What some other authority puts its identities into proves nothing here: the probe claims every group.
    claimed = frozenset(_GROUP.findall(policy.text))
    known = tuple(domains)
    for contract in contracts:
        # Rules and what they permit to whom: of each domain to the first probe, which is the least special.
        found: dict[str, dict[str, dict[str, str]]] = {}
        for probe in _probes(contract, mesh, known, claimed):
            for what, rules in _permitted(policy, probe, contract, mesh):
                for rule in rules:
                    found.setdefault(rule, {}).setdefault(what, {}).setdefault(probe.domain, probe.who)
        for rule, permits in sorted(found.items()):
            yield _violation(contract, rule, permits)


def _probes(
    contract: Contract, mesh: str, domains: tuple[str, ...], claimed: frozenset[str]
) -> Iterator[_Probe]:
    for domain in domains:
        trust_domain = naming.trust_domain(domain, mesh)
        nobody = SpiffeId(trust_domain, f"/{_NOBODY}")
        if domain == naming.OPERATORS:
            yield _Probe("an operator in no group", domain, Principal(nobody), _FOR_OPERATORS, reads_all=True)
            continue
        own = domain == contract.domain
        pushes = own or contract.options.open_to_all_trust_domains
        yield _Probe(f"any workload of {domain}", domain, Principal(nobody), _FOR_ALL, pushes=pushes)
        if claimed and not own:
            yield _Probe(
                f"any workload of {domain} that its authority puts into a group",
                domain,
                Principal(nobody, claimed),
                _FOR_ALL,
                pushes=pushes,
            )
        agent = SpiffeId(trust_domain, f"/agent/{_NOBODY}")
        yield _Probe(f"any agent of {domain}", domain, Principal(agent), _FOR_ALL, pushes=pushes)


def _permitted(
    policy: Policy, probe: _Probe, contract: Contract, mesh: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What the probe may do and should not, with the rules that permit it."""
    public = contract.options.classification in _FOR_ALL
    within = {"discover"}
    if probe.reads_all or public:
        within |= set(_READING)
    if probe.pushes:
        within.add("push")
    for action in ACTIONS:
        decision = policy.decide(probe.principal, action, contract, mesh)
        if decision.allowed and action not in within:
            yield action, decision.rules
    for classification in sorted({place.classification for place in contract.places} - probe.sees):
        decision = policy.sees(probe.principal, contract, classification, mesh)
        if decision.allowed:
            yield f"see {word(classification)}", decision.rules


def _violation(contract: Contract, rule: str, permits: Mapping[str, Mapping[str, str]]) -> Violation:
    by_reader: dict[tuple[str, ...], list[str]] = {}
    for what, readers in permits.items():
        by_reader.setdefault(tuple(readers.values()), []).append(what)
    told = "; ".join(
        f"permits {', '.join(f'`{one}`' for one in what)} to {', '.join(who)}"
        for who, what in by_reader.items()
    )
    cure = "narrow it to the workloads that need it, by their path, or to a group of the operators"
    return POLICY.violation(contract.name, (f'the rule @id("{rule}")', told, cure))

"""A domain's own access policy: Cedar rules over who asks and what a product promises; denied by default."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from telltale import naming
from telltale.api.mesh.v1.product_pb2 import Classification, Kind
from telltale.contract.product import Contract
from telltale.domain.cedar import Decision, Principal, Rules, entity, read_rules, workload
from telltale.errors import InvalidInput

ACTIONS = ("discover", "subscribe", "list", "push", "act", "replay")

_SCHEMA = f"""
entity Domain;
entity Group;
entity Workload in [Domain, Group] {{ trust_domain: String, domain: String, path: String }};
entity Product in [Domain] {{ name: String, owner: String, kind: String, classification: String }};
action {", ".join(ACTIONS)} appliesTo {{ principal: [Workload], resource: [Product] }};
"""
_MAX_CACHED = 8192


@dataclass(frozen=True)
class _Question:
    """All that a decision depends on."""

    principal: Principal
    mesh: str
    action: str
    product: str
    domain: str
    owner: str
    kind: str
    classification: str


class Policy:
    """The rules of one domain. The same question gets the same answer for as long as the process lives."""

    def __init__(self, text: str, name: str = "policy.cedar") -> None:
        """Reads rules; raises ConfigurationError naming file and line when one is wrong."""
        self._rules = Rules(text, name, _SCHEMA)
        self._answer = lru_cache(_MAX_CACHED)(self._evaluate)

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Reads a policy file."""
        return cls(read_rules(path), str(path))

    def decide(self, principal: Principal, action: str, contract: Contract, mesh: str) -> Decision:
        """Whether the principal may do this with the product. `action` is one of ACTIONS."""
        if action not in ACTIONS:
            raise InvalidInput(f"{action!r} is no action; policies know {', '.join(ACTIONS)}")
        return self._answer(
            _Question(
                principal=principal,
                mesh=mesh,
                action=action,
                product=contract.name,
                domain=contract.domain,
                owner=contract.options.owner,
                kind=_word(Kind.Name(contract.kind)),
                classification=_word(Classification.Name(contract.options.classification)),
            )
        )

    def _evaluate(self, question: _Question) -> Decision:
        try:
            domain = naming.domain_of(question.principal.spiffe_id.trust_domain, question.mesh)
        except InvalidInput as foreign:
            return Decision(False, str(foreign))
        product = {
            "name": question.product,
            "owner": question.owner,
            "kind": question.kind,
            "classification": question.classification,
        }
        return self._rules.decide(
            question.action,
            workload(question.principal, domain),
            entity("Product", question.product, question.domain, product),
            missing=f"no policy permits `{question.action}` on {question.product} "
            f"({question.kind}, {question.classification}) to {question.principal}",
        )


def _word(enum_name: str) -> str:
    """The last word of an enum value, in lower case: `KIND_SAMPLES` -> `samples`."""
    return enum_name.partition("_")[2].lower()

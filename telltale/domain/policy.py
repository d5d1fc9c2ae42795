"""A domain's own access policy: Cedar rules over who asks and what a product promises; denied by default."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from telltale import naming
from telltale.api.mesh.v1.product_pb2 import Classification, Kind
from telltale.contract.product import Contract
from telltale.domain.cedar import Decision, Principal, Rules, entity, read_rules, workload
from telltale.errors import InvalidInput

# What is done with a product.
ACTIONS = ("discover", "subscribe", "list", "push", "act", "replay")
# What of it is seen: asked for each classification that fields can have.
SEE = "see"

_SCHEMA = f"""
entity Domain;
entity Group;
entity Workload in [Domain, Group] {{ trust_domain: String, domain: String, path: String }};
entity Product in [Domain] {{ name: String, owner: String, kind: String, classification: String }};
action {", ".join(ACTIONS)} appliesTo {{
  principal: [Workload], resource: [Product]
}};
action {SEE} appliesTo {{
  principal: [Workload], resource: [Product], context: {{ classification: String }}
}};
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
    # Classification of the fields in question; None where the action is not about fields.
    sees: str | None


class Policy:
    """The rules of one domain. The same question gets the same answer for as long as the process lives."""

    def __init__(self, text: str, name: str = "policy.cedar") -> None:
        """Reads rules; raises ConfigurationError naming file and line when one is wrong."""
        # As it was written.
        self.text = text
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
        return self._answer(_question(principal, mesh, action, contract, None))

    def sees(
        self, principal: Principal, contract: Contract, classification: Classification, mesh: str
    ) -> Decision:
        """Whether the principal may see the product's fields of this classification."""
        return self._answer(_question(principal, mesh, SEE, contract, word(classification)))

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
        what = f"{question.action} {question.sees}" if question.sees else question.action
        return self._rules.decide(
            question.action,
            workload(question.principal, domain),
            entity("Product", question.product, question.domain, product),
            context={"classification": question.sees} if question.sees else None,
            missing=f"no policy permits `{what}` on {question.product} "
            f"({question.kind}, {question.classification}) to {question.principal}",
        )


def _question(
    principal: Principal, mesh: str, action: str, contract: Contract, sees: str | None
) -> _Question:
    return _Question(
        principal=principal,
        mesh=mesh,
        action=action,
        product=contract.name,
        domain=contract.domain,
        owner=contract.options.owner,
        kind=_last_word(Kind.Name(contract.kind)),
        classification=word(contract.options.classification),
        sees=sees,
    )


def word(classification: Classification) -> str:
    """A classification as rules and people write it."""
    return _last_word(Classification.Name(classification))


def _last_word(enum_name: str) -> str:
    """What tells an enum's value from others, in lower case: `KIND_SAMPLES` -> `samples`."""
    return enum_name.partition("_")[2].lower()

"""A domain's own access policy: Cedar rules over who asks and what a product promises; denied by default."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cedarpy

from telltale import naming
from telltale.api.mesh.v1.product_pb2 import Classification, Kind
from telltale.contract.product import Contract
from telltale.errors import ConfigurationError, InvalidInput
from telltale.naming import SpiffeId

ACTIONS = ("discover", "subscribe", "list", "push", "act", "replay")

# What rules may speak of. A rule that speaks of anything else is refused at the start, not when it is needed.
_SCHEMA = f"""
entity Domain;
entity Workload in [Domain] {{ trust_domain: String, domain: String, path: String }};
entity Product in [Domain] {{ name: String, owner: String, kind: String, classification: String }};
action {", ".join(ACTIONS)} appliesTo {{ principal: [Workload], resource: [Product] }};
"""
# One policy: everything up to its semicolon, which may also stand in a string or a comment.
_STATEMENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|//[^\n]*|[^;"/]|/)*;?')
_BLANK = re.compile(r"(?:\s|//[^\n]*\n?)*")
_MAX_CACHED = 8192


@dataclass(frozen=True)
class Decision:
    """Whether something is allowed, and by which rules, or what is missing."""

    allowed: bool
    reason: str


@dataclass(frozen=True)
class _Question:
    """All that a decision depends on."""

    principal: SpiffeId
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
        self._name = name
        self._schema = cedarpy.Schema.from_str(_SCHEMA)
        for line, rule in _rules(text):
            self._check(line, rule)
        try:
            self._rules = cedarpy.PolicySet.from_str(text)
        except ValueError as broken:
            raise ConfigurationError(f"{self._name}: {broken}") from None
        self._require_ids(text)
        self._answer = lru_cache(_MAX_CACHED)(self._evaluate)

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Reads a policy file."""
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as unreadable:
            raise ConfigurationError(f"the policy {path} cannot be read: {unreadable}") from None

    def decide(self, principal: SpiffeId, action: str, contract: Contract, mesh: str) -> Decision:
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

    def _check(self, line: int, rule: str) -> None:
        try:
            cedarpy.PolicySet.from_str(rule)
        except ValueError as broken:
            raise ConfigurationError(f"{self._name}, line {line}: {broken}") from None
        for error in cedarpy.validate_policies(rule, self._schema).errors:
            wrong = error.error.partition("`policy0`, ")[2] or error.error
            raise ConfigurationError(f"{self._name}, line {line}: {wrong}")

    def _require_ids(self, text: str) -> None:
        seen: set[str] = set()
        for rule in json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values():
            name = rule.get("annotations", {}).get("id")
            if not name or name in seen:
                raise ConfigurationError(
                    f"{self._name}: every rule needs an @id of its own, which decisions name; "
                    f"{f'{name!r} is used twice' if name else 'one has none'}"
                )
            seen.add(name)

    def _evaluate(self, question: _Question) -> Decision:
        try:
            domain = naming.domain_of(question.principal.trust_domain, question.mesh)
        except InvalidInput as foreign:
            return Decision(False, str(foreign))
        answer = cedarpy.is_authorized(
            {
                "principal": _uid("Workload", str(question.principal)),
                "action": _uid("Action", question.action),
                "resource": _uid("Product", question.product),
            },
            self._rules,
            _entities(question, domain),
            self._schema,
        )
        found = answer.diagnostics
        if found.errors:
            # A rule that fails may be one that forbids.
            return Decision(False, f"the policy failed: {'; '.join(found.errors)}")
        rules = ", ".join(sorted(found.id_annotations_by_reason.values()))
        if answer.allowed:
            return Decision(True, f"permitted by {rules}")
        if rules:
            return Decision(False, f"forbidden by {rules}")
        return Decision(
            False,
            f"no policy permits `{question.action}` on {question.product} "
            f"({question.kind}, {question.classification}) to {question.principal}",
        )


def _entities(question: _Question, domain: str) -> list[dict[str, object]]:
    """The two that a question is about, as rules see them."""
    return [
        {
            "uid": _uid("Workload", str(question.principal)),
            "attrs": {
                "trust_domain": question.principal.trust_domain,
                "domain": domain,
                "path": question.principal.path,
            },
            "parents": [_uid("Domain", domain)],
        },
        {
            "uid": _uid("Product", question.product),
            "attrs": {
                "name": question.product,
                "owner": question.owner,
                "kind": question.kind,
                "classification": question.classification,
            },
            "parents": [_uid("Domain", question.domain)],
        },
    ]


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _word(enum_name: str) -> str:
    """The last word of an enum value, in lower case: `KIND_SAMPLES` -> `samples`."""
    return enum_name.partition("_")[2].lower()


def _rules(text: str) -> Iterator[tuple[int, str]]:
    """Every rule of a policy text with the line that it begins on; the parser itself tells no line."""
    position = 0
    while True:
        blank = _BLANK.match(text, position)
        position = blank.end() if blank else position
        found = _STATEMENT.match(text, position)
        if found is None or not found.group():
            return
        yield text.count("\n", 0, position) + 1, found.group()
        position = found.end()

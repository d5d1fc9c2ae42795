"""A file of Cedar rules, checked against what its rules may speak of, and asked; denied by default."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cedarpy

from telltale.errors import ConfigurationError
from telltale.naming import SpiffeId

# One policy: everything up to its semicolon, which may also stand in a string or a comment.
_STATEMENT = re.compile(r'(?:"(?:[^"\\]|\\.)*"|//[^\n]*|[^;"/]|/)*;?')
_BLANK = re.compile(r"(?:\s|//[^\n]*\n?)*")


@dataclass(frozen=True)
class Principal:
    """Who asks, and the policy groups that their own authority puts them in."""

    spiffe_id: SpiffeId
    groups: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return str(self.spiffe_id)


@dataclass(frozen=True)
class Decision:
    """Whether something is allowed, and by which rules, or what is missing."""

    allowed: bool
    reason: str
    # The rules that decided, by their @id, sorted.
    rules: tuple[str, ...] = ()


class Rules:
    """Rules under a schema. A rule that speaks of anything else is refused at the start, not when needed."""

    def __init__(self, text: str, name: str, schema: str) -> None:
        """Reads rules; raises ConfigurationError naming file and line when one is wrong."""
        self._name = name
        self._schema = cedarpy.Schema.from_str(schema)
        for line, rule in _statements(text):
            self._check(line, rule)
        try:
            self._rules = cedarpy.PolicySet.from_str(text)
        except ValueError as broken:
            raise ConfigurationError(f"{self._name}: {broken}") from None
        self._require_ids(text)

    def decide(
        self,
        action: str,
        principal: Mapping[str, object],
        resource: Mapping[str, object],
        *,
        context: Mapping[str, object] | None = None,
        missing: str,
    ) -> Decision:
        """Whether one entity may do this with the other; `missing` is the reason when no rule permits it."""
        answer = cedarpy.is_authorized(
            {
                "principal": principal["uid"],
                "action": uid("Action", action),
                "resource": resource["uid"],
                "context": dict(context or {}),
            },
            self._rules,
            [dict(principal), dict(resource)],
            self._schema,
        )
        found = answer.diagnostics
        if found.errors:
            # A rule that fails may be one that forbids.
            return Decision(False, f"the policy failed: {'; '.join(found.errors)}")
        rules = tuple(sorted(found.id_annotations_by_reason.values()))
        named = ", ".join(rules)
        if answer.allowed:
            return Decision(True, f"permitted by {named}", rules)
        return Decision(False, f"forbidden by {named}" if rules else missing, rules)

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


def read_rules(path: Path) -> str:
    """The text of a policy file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as unreadable:
        raise ConfigurationError(f"the policy {path} cannot be read: {unreadable}") from None


def workload(principal: Principal, domain: str) -> dict[str, object]:
    """Who asks, as rules see it."""
    name = principal.spiffe_id
    return {
        "uid": uid("Workload", str(name)),
        "attrs": {"trust_domain": name.trust_domain, "domain": domain, "path": name.path},
        "parents": [uid("Domain", domain), *(uid("Group", group) for group in sorted(principal.groups))],
    }


def entity(kind: str, name: str, domain: str, attributes: Mapping[str, object]) -> dict[str, object]:
    """What is asked for, as rules see it: something of a domain."""
    return {"uid": uid(kind, name), "attrs": dict(attributes), "parents": [uid("Domain", domain)]}


def uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def _statements(text: str) -> Iterator[tuple[int, str]]:
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

"""Who may do what, as the owning domains decide it. The gateway asks, remembers briefly, and decides nothing.

No answer is not a permission: it is told apart from a refusal so that callers can say which it was.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

import structlog

from gateway.domain import Domain
from telltale.api.mesh.v1.access_pb2 import AccessQuery, Action, CheckRequest, CheckResponse
from telltale.errors import InvalidInput, TelltaleError, Unauthenticated, Unavailable
from telltale.rpc.auth import Caller
from telltale.rpc.client import answered, calling

log = structlog.get_logger(__name__)

_K = TypeVar("_K")
_V = TypeVar("_V")

# An answer is used again for this long; live subscriptions are checked less often than that.
_REMEMBERED_SECONDS = 10.0
# What a caller may discover is kept to show the products of a domain that is down.
_MAX_REMEMBERED = 100_000
_MAX_QUERIES = 1_000
_PATIENCE_SECONDS = 5.0
# What is remembered, and passed on to the caller, of the owner's words, and of how many refusals.
_LONGEST_REASON = 1_000
_MAX_WORDS = 2_000
_CHECK = "/telltale.api.mesh.v1.Access/Check"


class Decision(Enum):
    """What the owner of a product said."""

    ALLOWED = "allowed"
    DENIED = "denied"
    NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Answer:
    """A decision and the owner's words for it."""

    decision: Decision
    reason: str = ""


class Owners(Protocol):
    """Finds the domain that owns a product."""

    def owner(self, product: str) -> Domain | None: ...


class Access:
    """Asks the domains' `Access.Check`; answers are kept for seconds, by token."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        # Token's digest, action and product -> allowed, and until when that may be used.
        self._recent: OrderedDict[tuple[bytes, Action, str], tuple[bool, float]] = OrderedDict()
        # The same -> why it was denied.
        self._words: OrderedDict[tuple[bytes, Action, str], str] = OrderedDict()
        # Principal and product -> the last answer to `discover`.
        self._discovered: OrderedDict[tuple[str, str], bool] = OrderedDict()

    async def decide(self, caller: Caller, action: Action, products: Iterable[str]) -> Mapping[str, Decision]:
        """The owners' decisions on each product; a product without an owner gets no answer."""
        token = _digest(caller)
        decisions: dict[str, Decision] = {}
        questions: dict[str, tuple[Domain, list[str]]] = {}
        now = time.monotonic()
        for product in products:
            recent = self._recent.get((token, action, product))
            owner = self._owners.owner(product)
            if recent is not None and now < recent[1]:
                decisions[product] = Decision.ALLOWED if recent[0] else Decision.DENIED
            elif owner is None:
                decisions[product] = Decision.NO_ANSWER
            else:
                questions.setdefault(owner.trust_domain, (owner, []))[1].append(product)
        asked = []
        for domain, names in questions.values():
            if domain.is_named_by(caller.token):
                asked.append(self._ask(domain, caller.token, action, names))
            else:
                # It would refuse the token.
                decisions.update(dict.fromkeys(names, Decision.DENIED))
        for answers in await asyncio.gather(*asked):
            for product, answer in answers.items():
                decisions[product] = answer.decision
                if answer.decision is Decision.NO_ANSWER:
                    continue
                allowed = answer.decision is Decision.ALLOWED
                _remember(self._recent, (token, action, product), (allowed, now + _REMEMBERED_SECONDS))
                if not allowed:
                    _remember(self._words, (token, action, product), answer.reason, _MAX_WORDS)
        return decisions

    def reason(self, caller: Caller, action: Action, product: str) -> str:
        """Why the owner denied it when it last did, in its own words; empty when they are forgotten."""
        return self._words.get((_digest(caller), action, product), "")

    async def discoverable(self, caller: Caller, products: Iterable[str]) -> set[str]:
        """What the caller may know of. While an owner is down, its last answer to the caller counts."""
        decisions = await self.decide(caller, Action.ACTION_DISCOVER, products)
        principal = str(caller.principal)
        seen = set()
        for product, decision in decisions.items():
            if decision is Decision.NO_ANSWER:
                allowed = self._discovered.get((principal, product), False)
            else:
                allowed = decision is Decision.ALLOWED
                _remember(self._discovered, (principal, product), allowed)
            if allowed:
                seen.add(product)
        return seen

    async def _ask(
        self, domain: Domain, token: str, action: Action, products: list[str]
    ) -> Mapping[str, "Answer"]:
        decisions: dict[str, Answer] = {}
        for start in range(0, len(products), _MAX_QUERIES):
            names = products[start : start + _MAX_QUERIES]
            try:
                answers = await self._check(domain, token, action, names)
            except TelltaleError as error:
                log.info("no access decision", domain=domain.trust_domain, reason=str(error))
                answers = [Answer(Decision.NO_ANSWER)] * len(names)
            decisions.update(zip(names, answers, strict=True))
        return decisions

    async def _check(self, domain: Domain, token: str, action: Action, products: list[str]) -> "list[Answer]":
        request = CheckRequest(
            token=token, queries=[AccessQuery(action=action, product=product) for product in products]
        )
        metadata = await domain.metadata()
        call = domain.calls.unary_unary(
            _CHECK,
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        try:
            with calling(domain.trust_domain):
                answer = await call(request, metadata=metadata, timeout=_PATIENCE_SECONDS)
                response = answered(answer, domain.trust_domain)
        except (Unauthenticated, InvalidInput) as refused:
            # The domain does not accept the caller's token, for example because it is not made out to it.
            log.info("token refused", domain=domain.trust_domain, reason=str(refused))
            return [Answer(Decision.DENIED, str(refused)[:_LONGEST_REASON])] * len(products)
        if len(response.decisions) != len(products):
            raise Unavailable(
                f"{domain.trust_domain} answered {len(response.decisions)} of {len(products)} questions"
            )
        return [
            Answer(Decision.ALLOWED if one.allowed else Decision.DENIED, one.reason[:_LONGEST_REASON])
            for one in response.decisions
        ]


def _digest(caller: Caller) -> bytes:
    return hashlib.sha256(caller.token.encode()).digest()


def _remember(memory: "OrderedDict[_K, _V]", key: _K, value: _V, most: int = _MAX_REMEMBERED) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > most:
        memory.popitem(last=False)

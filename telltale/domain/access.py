"""Who may do what with the domain's products: the policy, asked by its own handlers and by the gateway."""

from collections.abc import Collection
from typing import Any

from grpc import aio

from telltale import audit
from telltale.api.mesh.v1.access_pb2 import (
    AccessDecision,
    Action,
    CheckRequest,
    CheckResponse,
    DescribePolicyRequest,
    DescribePolicyResponse,
)
from telltale.api.mesh.v1.access_pb2_grpc import AccessServicer
from telltale.audit import Auditor
from telltale.contract.product import Contract
from telltale.domain.cedar import Decision, Principal
from telltale.domain.clearance import Clearance, NotCleared
from telltale.domain.policy import SEE, Policy
from telltale.domain.products import Products
from telltale.errors import InvalidInput, NotFound, PermissionMissing
from telltale.identity.tokens import TokenVerifier
from telltale.naming import SpiffeId
from telltale.rpc.auth import caller, on_the_wire

# What is asked for by who speaks for others.
FORWARD = "forward"
_MAX_QUERIES = 1_000
_ACTIONS = {
    Action.ACTION_DISCOVER: "discover",
    Action.ACTION_SUBSCRIBE: "subscribe",
    Action.ACTION_LIST: "list",
    Action.ACTION_PUSH: "push",
    Action.ACTION_ACT: "act",
    Action.ACTION_REPLAY: "replay",
    Action.ACTION_WATCH: "subscribe",
}


class Access:
    """The policy of a domain over its products. Every decision is recorded, whoever asked for it."""

    def __init__(self, policy: Policy, products: Products, mesh: str, auditor: Auditor) -> None:
        self.policy = policy
        self._products = products
        self._contracts = products.contracts
        self._clearances: dict[tuple[object, ...], Clearance] = {}
        self._auditor = auditor
        self.mesh = mesh

    def allows(self, principal: Principal, action: str, contract: Contract) -> bool:
        return self._decide(principal, action, contract).allowed

    def require(self, action: str, contract: Contract) -> None:
        """Raises PermissionMissing unless the caller of the running call may."""
        principal = asking()
        if not self.allows(principal, action, contract):
            raise PermissionMissing(str(principal), action, contract.name)

    def require_whole(self, contract: Contract) -> None:
        """Raises PermissionMissing unless the caller may have sealed batches, which are whole."""
        principal = asking()
        decision = self._whole(principal, contract)
        if decision.allowed:
            return
        if self.policy.decide(principal, "subscribe", contract, self.mesh).allowed:
            raise NotCleared(str(principal), contract.name, decision.reason)
        raise PermissionMissing(str(principal), "subscribe", contract.name)

    def shown(self, contract: Contract) -> Clearance:
        """What the caller of the running call sees of the product, to mask the rest by."""
        principal = asking()
        clearance, rules = self._clearance(principal, contract)
        reason = clearance.missing(principal) if clearance.masked else f"permitted by {', '.join(rules)}"
        self.record(principal, SEE, contract.name, Decision(not clearance.masked, reason, rules))
        return clearance

    def require_any(self, principal: Principal, action: str) -> None:
        """Raises PermissionMissing unless the principal may do it with at least one product."""
        for contract in self._contracts.values():
            decision = self.policy.decide(principal, action, contract, self.mesh)
            if decision.allowed:
                # One decision about no product: with which, the call that follows tells.
                self.record(principal, action, "", decision)
                return
        refused = PermissionMissing(str(principal), action, "any product of this domain")
        self.record(principal, action, "", Decision(False, str(refused)))
        raise refused

    def require_one_of(self, action: str, products: Collection[str]) -> None:
        """Raises PermissionMissing unless the caller of the running call may with one of these products."""
        principal = asking()
        own = [self._contracts[product] for product in sorted(products) if product in self._contracts]
        if any(self.allows(principal, action, contract) for contract in own):
            return
        refused = PermissionMissing(str(principal), action, ", ".join(sorted(products)))
        if not own:
            self.record(principal, action, "", Decision(False, str(refused)))
        raise refused

    def permitted(self, principal: Principal, action: str) -> frozenset[str]:
        """Names of the products with which the principal may."""
        return frozenset(
            contract.name for contract in self._contracts.values() if self.allows(principal, action, contract)
        )

    def decide(self, principal: Principal, action: Action, product: str) -> AccessDecision:
        contract = self._contracts.get(product)
        name = _ACTIONS.get(action)
        if contract is None or name is None:
            decision = Decision(False, f"{product[:200]} is no product of this domain")
            self.record(principal, name or "unknown action", product, decision)
        elif action == Action.ACTION_SUBSCRIBE:
            # Those that forward batches forward them whole.
            decision = self._whole(principal, contract)
        else:
            decision = self._decide(principal, name, contract)
        return AccessDecision(allowed=decision.allowed, reason=decision.reason)

    def record(
        self, principal: Principal, action: str, product: str, decision: Decision, *, subject: str = ""
    ) -> None:
        """Keeps record of a decision, with the one on the wire if the decision was made for a call."""
        peer, address = on_the_wire()
        self._auditor.record(
            audit.Decision(
                action=action,
                allowed=decision.allowed,
                principal=str(principal),
                reason=decision.reason,
                product=product,
                subject=subject,
                peer=peer,
                address=address,
                rules=decision.rules,
            )
        )

    def _whole(self, principal: Principal, contract: Contract) -> Decision:
        """Whether the principal may subscribe to the product and see every field of it."""
        decision = self.policy.decide(principal, "subscribe", contract, self.mesh)
        if decision.allowed:
            clearance, seeing = self._clearance(principal, contract)
            if clearance.masked:
                decision = Decision(False, clearance.refusal(principal))
            else:
                rules = tuple(sorted({*decision.rules, *seeing}))
                decision = Decision(True, f"permitted by {', '.join(rules)}", rules)
        self.record(principal, "subscribe", contract.name, decision)
        return decision

    def _clearance(self, principal: Principal, contract: Contract) -> tuple[Clearance, tuple[str, ...]]:
        """What of the product's fields the principal may see, and the rules that let it."""
        former = self._products.former[contract.name]
        classifications = {place.classification for place in contract.places} | set(former.values())
        decisions = {one: self.policy.sees(principal, contract, one, self.mesh) for one in classifications}
        sees = frozenset(one for one, decision in decisions.items() if decision.allowed)
        # As many as there are products, ways to see them and versions that lost a field.
        known = contract.name, sees, *former.items()
        if known not in self._clearances:
            self._clearances[known] = Clearance(contract, sees, former)
        rules = {rule for decision in decisions.values() if decision.allowed for rule in decision.rules}
        return self._clearances[known], tuple(sorted(rules))

    def _decide(self, principal: Principal, action: str, contract: Contract) -> Decision:
        decision = self.policy.decide(principal, action, contract, self.mesh)
        self.record(principal, action, contract.name, decision)
        return decision


def asking() -> Principal:
    """Whose rights count in the running call."""
    who = caller()
    return Principal(who.principal, who.groups)


class AccessService(AccessServicer):
    """Serves `Access`: decisions to those that forward calls, the rules themselves to those they concern."""

    def __init__(
        self, access: Access, trust_domain: str, tokens: TokenVerifier, forwarders: frozenset[SpiffeId]
    ) -> None:
        self._access = access
        self._trust_domain = trust_domain
        self._tokens = tokens
        self._forwarders = forwarders

    async def Check(self, request: CheckRequest, context: "aio.ServicerContext[Any, Any]") -> CheckResponse:
        """The caller must be a forwarder."""
        peer = caller().peer
        if peer not in self._forwarders:
            refused = PermissionMissing(str(peer), FORWARD, "this domain's products")
            self._access.record(Principal(peer), FORWARD, "", Decision(False, str(refused)))
            raise refused
        if len(request.queries) > _MAX_QUERIES:
            raise InvalidInput(f"a check has at most {_MAX_QUERIES} queries")
        # The forwarder has seen the certificate that the token is bound to; here it is on another wire.
        token = self._tokens.verify(request.token, None)
        principal = Principal(token.subject, token.groups)
        return CheckResponse(
            decisions=[
                self._access.decide(principal, query.action, query.product) for query in request.queries
            ]
        )

    async def DescribePolicy(
        self, request: DescribePolicyRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> DescribePolicyResponse:
        """The caller needs `discover` on a product of the domain."""
        self._access.require_any(asking(), "discover")
        if request.trust_domain != self._trust_domain:
            raise NotFound(
                f"this is the service of {self._trust_domain}; ask {request.trust_domain[:200]!r} for its own"
            )
        return DescribePolicyResponse(policy=self._access.policy.text)

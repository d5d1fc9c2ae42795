"""Who may do what with the domain's products: the policy, asked by its own handlers and by the gateway."""

from collections.abc import Collection
from typing import Any

from grpc import aio

from telltale import audit
from telltale.api.mesh.v1.access_pb2 import AccessDecision, Action, CheckRequest, CheckResponse
from telltale.api.mesh.v1.access_pb2_grpc import AccessServicer
from telltale.audit import Auditor
from telltale.contract.product import Contract
from telltale.domain.cedar import Decision, Principal
from telltale.domain.policy import Policy
from telltale.errors import InvalidInput, PermissionMissing
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
}


class Access:
    """The policy of a domain over its products. Every decision is recorded, whoever asked for it."""

    def __init__(self, policy: Policy, contracts: dict[str, Contract], mesh: str, auditor: Auditor) -> None:
        self._policy = policy
        self._contracts = contracts
        self._auditor = auditor
        self.mesh = mesh

    def allows(self, principal: Principal, action: str, contract: Contract) -> bool:
        return self._decide(principal, action, contract).allowed

    def require(self, action: str, contract: Contract) -> None:
        """Raises PermissionMissing unless the caller of the running call may."""
        principal = asking()
        if not self.allows(principal, action, contract):
            raise PermissionMissing(str(principal), action, contract.name)

    def require_any(self, principal: Principal, action: str) -> None:
        """Raises PermissionMissing unless the principal may do it with at least one product."""
        for contract in self._contracts.values():
            decision = self._policy.decide(principal, action, contract, self.mesh)
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

    def _decide(self, principal: Principal, action: str, contract: Contract) -> Decision:
        decision = self._policy.decide(principal, action, contract, self.mesh)
        self.record(principal, action, contract.name, decision)
        return decision


def asking() -> Principal:
    """Whose rights count in the running call."""
    who = caller()
    return Principal(who.principal, who.groups)


class AccessService(AccessServicer):
    """Serves `Access` to those that forward calls."""

    def __init__(self, access: Access, tokens: TokenVerifier, forwarders: frozenset[SpiffeId]) -> None:
        self._access = access
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

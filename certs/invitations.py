"""Join tokens over the wire: an operator with the permission invites one identity, and that is recorded."""

import asyncio
from typing import Any

import grpc.aio
import structlog

from certs.addresses import Addresses
from certs.issuing import IssuingAuthority
from certs.ledger import Ledger
from certs.limits import InvitationLimit
from certs.policy import INVITE, InvitationPolicy
from certs.profiles import Profile
from certs.record import Record
from telltale.api.mesh.v1 import authority_pb2
from telltale.domain.cedar import Principal
from telltale.errors import InvalidInput, TelltaleError
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId
from telltale.rpc.auth import Authenticator, caller

Context = grpc.aio.ServicerContext[Any, Any]
_MOST_NAMES = 8

_log = structlog.get_logger("certs")


class Invitations:
    """Makes join tokens of one authority. A caller's certificate is not enough here: the token counts too."""

    def __init__(
        self,
        authority: IssuingAuthority,
        ledger: Ledger,
        policy: InvitationPolicy,
        limit: InvitationLimit,
        trust: Trust,
        addresses: Addresses,
        record: Record,
    ) -> None:
        self._record = record
        self._authority = authority
        self._ledger = ledger
        self._policy = policy
        self._limit = limit
        # Nobody may speak for another here, not even the gateway.
        self._callers = Authenticator(trust, authority.trust_domain)
        self._addresses = addresses

    async def create(
        self, request: authority_pb2.CreateJoinTokenRequest, context: Context
    ) -> authority_pb2.CreateJoinTokenResponse:
        """A join token for the identity of the request, for an operator who may invite it."""
        inviter, wanted = caller().peer, ""
        try:
            known = await self._callers.authenticate(context)
            profile = self._wanted(request)
            wanted = str(profile.spiffe_id)
            permitted = self._policy.require(Principal(inviter, known.groups), profile, self._authority.mesh)
            self._limit.invite()
        except TelltaleError as refused:
            self._record.operator_refused(INVITE, refused, wanted)
            # The platform's log may be out of reach, or in the hands of whoever tries.
            _log.warning("invitation refused", by=str(inviter), peer=context.peer(), reason=str(refused))
            raise
        granted = await asyncio.to_thread(self._ledger.grant, profile)
        self._record.known(INVITE, permitted.reason, allowed=True, subject=wanted, rules=permitted.rules)
        _log.info(
            "invited",
            by=str(inviter),
            peer=context.peer(),
            spiffe_id=str(profile.spiffe_id),
            expires=granted.expires.isoformat(),
        )
        response = authority_pb2.CreateJoinTokenResponse(
            token=str(granted.token),
            spiffe_id=str(profile.spiffe_id),
            root_sha256=self._authority.root_sha256,
            enrollment_address=self._addresses.enrollment,
        )
        response.expire_time.FromDatetime(granted.expires)
        return response

    def _wanted(self, request: authority_pb2.CreateJoinTokenRequest) -> Profile:
        spiffe_id = SpiffeId.parse(f"spiffe://{self._authority.trust_domain}{request.path}")
        # A deeper path would be of a kind that no policy of a domain has thought of.
        if request.path.count("/") > 2:
            raise InvalidInput(f"{spiffe_id} is too deep; a path is /<kind> or /<kind>/<name>")
        if len(request.dns_names) > _MOST_NAMES:
            raise InvalidInput(
                f"{len(request.dns_names)} server names are too many; {_MOST_NAMES} are the most"
            )
        profile = Profile(spiffe_id, tuple(request.dns_names))
        self._authority.check_newcomer(profile)
        return profile

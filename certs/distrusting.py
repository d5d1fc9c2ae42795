"""An authority's word on whom not to believe: said by operators, signed, and passed on to everybody."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import Any, Never

import grpc.aio
import structlog

from certs.distrusts import Distrusts
from certs.issuing import IssuingAuthority
from certs.limits import InvitationLimit
from certs.policy import DISTRUST, InvitationPolicy
from certs.record import Record
from telltale.api.mesh.v1 import authority_pb2
from telltale.domain.cedar import Principal
from telltale.errors import TelltaleError
from telltale.identity.distrust import Distrust, DistrustList
from telltale.identity.distrust_lists import make_list, message_of, time_of
from telltale.identity.trust import Trust
from telltale.naming import SpiffeId
from telltale.rpc.auth import Authenticator, caller

Context = grpc.aio.ServicerContext[Any, Any]
# Recorded, not a permission: who may distrust may also lift.
LIFT = "lift"
# A refused request may name anything at any length.
_LONGEST_CLAIM = 512
# The age of the statement tells everybody that it was not withheld.
_SIGN_SECONDS = 30.0
# Another process may write too: `python -m certs distrust`.
_LOOK_SECONDS = 0.5
# A stream ends by itself after this share of its certificate's life, and is opened anew with the next one.
_SHARE_OF_LIFE = 0.8

_log = structlog.get_logger("certs")


class Distrusting:
    """Serves Distrust and WatchDistrust. `distrust` is what this authority knows, its own word among it."""

    def __init__(
        self,
        authority: IssuingAuthority,
        words: Distrusts,
        policy: InvitationPolicy,
        limit: InvitationLimit,
        trust: Trust,
        distrust: Distrust,
        record: Record,
    ) -> None:
        self._authority = authority
        self._words = words
        self._policy = policy
        self._limit = limit
        # As for invitations: a certificate is not enough, and nobody speaks for another.
        self._callers = Authenticator(trust, authority.trust_domain)
        self._distrust = distrust
        self._record = record
        # Two lists at once: the one that was read first would take the other for words that it has lost.
        self._signing = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Signs the own list now, and again and again while the body runs."""
        await self._sign()
        task = asyncio.create_task(self._sign_for_ever(), name=f"distrust of {self._authority.trust_domain}")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def say(
        self, request: authority_pb2.DistrustRequest, context: Context
    ) -> authority_pb2.DistrustResponse:
        """Distrusts an identity, or lifts that, for an operator who may."""
        speaker = caller().peer
        action, said = (LIFT if request.lift else DISTRUST), request.spiffe_id[:_LONGEST_CLAIM]
        try:
            known = await self._callers.authenticate(context)
            spiffe_id = SpiffeId.parse(request.spiffe_id)
            since = time_of(request.since_time) if request.HasField("since_time") else None
            permitted = self._policy.require_distrust(
                Principal(speaker, known.groups), spiffe_id, self._authority.mesh
            )
            self._limit.invite()
            if request.lift:
                entry = await asyncio.to_thread(self._words.lift, spiffe_id)
            else:
                entry = await asyncio.to_thread(
                    self._words.distrust, spiffe_id, since, request.reason, str(speaker)
                )
            await self._sign()
        except TelltaleError as refused:
            self._record.operator_refused(action, refused, said)
            # The platform's log may be out of reach, or in the hands of whoever tries.
            _log.warning(f"{action} refused", by=str(speaker), peer=context.peer(), reason=str(refused))
            raise
        self._record.known(action, permitted.reason, allowed=True, subject=said, rules=permitted.rules)
        _log.warning(
            "lifted" if request.lift else "distrusted",
            by=str(speaker),
            peer=context.peer(),
            spiffe_id=str(spiffe_id),
            since=entry.since.isoformat(),
            reason=entry.reason,
        )
        return authority_pb2.DistrustResponse(entry=message_of(entry))

    async def watch(self) -> AsyncGenerator[authority_pb2.WatchDistrustResponse, None]:
        """Every list that is known, the own one last, and each again when it was signed anew."""
        left = (caller().expires - datetime.now(UTC)).total_seconds() * _SHARE_OF_LIFE
        until = asyncio.get_running_loop().time() + left
        own = self._authority.trust_domain
        sent: dict[str, DistrustList] = {}
        with self._distrust.listening(of_all=True) as news, contextlib.suppress(TimeoutError):
            while True:
                news.clear()
                for each in sorted(self._distrust.lists, key=lambda one: one.issuer == own):
                    before = sent.get(each.issuer)
                    if before is None or each.statement != before.statement:
                        sent[each.issuer] = each
                        yield authority_pb2.WatchDistrustResponse(list=_signed(each, before))
                async with asyncio.timeout_at(until):
                    await news.wait()

    async def _sign_for_ever(self) -> Never:
        due = asyncio.get_running_loop().time() + _SIGN_SECONDS
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                known = self._distrust.of(self._authority.trust_domain)
                changed = known is None or await asyncio.to_thread(self._words.sequence) != known.sequence
                if changed or asyncio.get_running_loop().time() >= due:
                    await self._sign()
                    due = asyncio.get_running_loop().time() + _SIGN_SECONDS
            except Exception as failed:  # a full disk, a lock: the age of the list shows it, and it passes
                _log.error("cannot sign the list of distrust", error=str(failed) or type(failed).__name__)

    async def _sign(self) -> None:
        own = self._authority.trust_domain
        async with self._signing:
            sequence, entries = await asyncio.to_thread(self._words.all)
            heard = self._distrust.of(own)
            if heard is not None and heard.sequence > sequence:
                # Signed with this authority's key, so these were its words.
                _log.error("others know later words of this authority: its state is an old copy; taken over")
                sequence, entries = heard.sequence, heard.entries
                await asyncio.to_thread(self._words.adopt, sequence, entries)
            self._distrust.take(make_list(own, sequence, entries, self._authority.sign))


def _signed(each: DistrustList, before: DistrustList | None) -> authority_pb2.SignedDistrustList:
    """A list as a stream carries it that has carried another before."""
    known = before is not None and before.encoded == each.encoded
    return authority_pb2.SignedDistrustList(statement=each.statement, entries=None if known else each.encoded)

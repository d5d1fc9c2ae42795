"""Hears whom the mesh distrusts: follows authorities, believes the signatures alone, and keeps what it heard.

A workload follows its own authority, which passes on what it hears from the others. Whoever passes lists
on can withhold them and nothing else; their age shows that.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Never

import grpc.aio
import structlog
from opentelemetry import metrics

from telltale.api.mesh.v1.authority_pb2 import SignedDistrustList, WatchDistrustRequest
from telltale.api.mesh.v1.authority_pb2_grpc import AuthorityStub
from telltale.errors import TelltaleError, Unauthenticated
from telltale.identity.dialling import backoff
from telltale.identity.distrust import DistrustList
from telltale.identity.distrust_lists import issuer_of, keep_list, load_lists, oldest, read_list
from telltale.identity.trust import Trust
from telltale.naming import server_name

# Lists are signed anew every half minute: four in a row that do not come are a broken stream.
_SILENCE_SECONDS = 120.0
# So old a list was withheld, or its authority is down; either way nobody knows what it says now.
OLD_SECONDS = 300.0
_LOOK_SECONDS = 10.0
# A process that starts is worth this wait for the latest word; what it kept from before counts anyway.
_FIRST_WORD_SECONDS = 2.0

_log = structlog.get_logger("telltale.identity")
_age = metrics.get_meter("telltale.identity").create_gauge(
    "telltale.identity.distrust.age",
    unit="s",
    description="Since a trust domain signed the list of distrust that this process goes by.",
)


@contextlib.asynccontextmanager
async def hearing(
    trust: Trust,
    authorities: Mapping[str, str],
    channel_to: Callable[[str, str], grpc.aio.Channel],
    state: Path | None,
    *,
    patience: float = _FIRST_WORD_SECONDS,
) -> AsyncIterator[None]:
    """Follows authorities, host:port by trust domain, while the body runs. What was kept counts at once.

    channel_to: a channel to an address that proves a server name. state: where lists are kept, if they are.
    patience: seconds that the body waits for a first answer.
    """
    if state is not None:
        await asyncio.to_thread(load_lists, state, trust)
    followed = [_Followed(trust, issuer, address, state) for issuer, address in authorities.items()]
    tasks = [asyncio.create_task(one.run(channel_to), name=f"distrust of {one.issuer}") for one in followed]
    tasks.append(asyncio.create_task(_watch_age(trust), name="age of distrust"))
    try:
        answers = [asyncio.ensure_future(one.answered.wait()) for one in followed]
        if answers:
            await asyncio.wait(answers, timeout=patience)
        for answer in answers:
            answer.cancel()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Followed:
    """One authority, and what comes from it."""

    def __init__(self, trust: Trust, issuer: str, address: str, state: Path | None) -> None:
        self.issuer = issuer
        # Set by its first word, or by the first failure: nobody waits for one who is not there.
        self.answered = asyncio.Event()
        self._trust = trust
        self._address = address
        self._state = state

    async def run(self, channel_to: Callable[[str, str], grpc.aio.Channel]) -> Never:
        attempt = 0
        while True:
            try:
                # Opened anew for each stream: a renewed certificate comes with the next one.
                async with channel_to(self._address, server_name("authority", self.issuer)) as channel:
                    await self._read(channel)
                # The authority ends a stream before its certificate does.
                attempt = 0
                continue
            except grpc.aio.AioRpcError as failed:
                reason = failed.details() or failed.code().name
            except TelltaleError as failed:
                reason = str(failed)
            except TimeoutError:
                reason = f"nothing came for {_SILENCE_SECONDS:.0f} s"
            self.answered.set()
            _log.info("nobody says whom to distrust; trying again", authority=self._address, reason=reason)
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    async def _read(self, channel: grpc.aio.Channel) -> None:
        call = AuthorityStub(channel).WatchDistrust(WatchDistrustRequest())
        answers = aiter(call)
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                response = await anext(answers, None)
            if response is None:
                return
            await self._take(response.list)

    async def _take(self, signed: SignedDistrustList) -> None:
        try:
            heard = read_list(signed, self._trust)
        except Unauthenticated as wrong:
            # Others of the same stream may hold.
            _log.warning("a list of distrust is not believed", authority=self._address, reason=str(wrong))
            return
        if heard is not None:
            before = self._trust.distrust.of(heard.issuer)
            if self._trust.distrust.take(heard):
                await self._keep(heard, before)
        # Its own list is the last one of the first round, and may be one that is known already.
        if issuer_of(signed) == self.issuer:
            self.answered.set()

    async def _keep(self, heard: DistrustList, before: DistrustList | None) -> None:
        if heard.sequence == (before.sequence if before is not None else 0):
            return
        _log.warning("the word on whom to distrust changed", issuer=heard.issuer, entries=len(heard.entries))
        if self._state is None:
            return
        try:
            await asyncio.to_thread(keep_list, self._state, heard)
        except OSError as failed:
            # It holds for as long as this process lives.
            _log.error("cannot keep the list of distrust", issuer=heard.issuer, reason=failed.strerror)


async def _watch_age(trust: Trust) -> Never:
    warned = False
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for each in trust.distrust.lists:
            _age.set(each.age, {"issuer": each.issuer})
        last = oldest(trust.distrust)
        old = last is not None and last.age > OLD_SECONDS
        if old and not warned and last is not None:
            _log.warning(
                "a list of distrust is old: its authority is down, or somebody withholds it",
                issuer=last.issuer,
                seconds=round(last.age),
            )
        warned = old

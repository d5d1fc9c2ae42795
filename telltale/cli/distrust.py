"""`telltale distrust`: an operator says whom the mesh shall not believe, lifts that, or looks who it is."""

import asyncio
import sys
from datetime import datetime

from telltale.api.mesh.v1.authority_pb2 import DistrustRequest
from telltale.cli import show
from telltale.cli.authorities import TIMEOUT, calling_authority
from telltale.cli.home import Home
from telltale.cli.logins import acting
from telltale.errors import Unavailable
from telltale.identity.distrust import Entry
from telltale.identity.distrust_lists import entry_of, moment
from telltale.identity.hearing import hearing
from telltale.identity.trust import Trust
from telltale.naming import OPERATORS, SpiffeId, domain_of, trust_domain


async def distrust(home: Home, name: str, since: str | None, reason: str, *, as_json: bool) -> None:
    """Distrusts an identity from then on, or from now."""
    request = DistrustRequest(spiffe_id=str(SpiffeId.parse(name)), reason=reason)
    if since is not None:
        request.since_time.FromDatetime(moment(since))
    entry = await _say(home, request)
    _show(
        entry,
        f"{entry}\n"
        "New calls are refused, streams end within seconds, and what it sealed since then is quarantined\n"
        "everywhere; what it sealed before stays valid. When the host is set up anew, run\n"
        f"  telltale distrust {entry.spiffe_id} --lift",
        as_json=as_json,
    )


async def lift(home: Home, name: str, *, as_json: bool) -> None:
    """Ends the word on an identity that was set up anew."""
    entry = await _say(home, DistrustRequest(spiffe_id=str(SpiffeId.parse(name)), lift=True))
    _show(
        entry,
        f"{entry.spiffe_id} is believed again, with keys that are enrolled from now on.\n"
        "Its old keys stay distrusted: let it join with a new join token. What was quarantined stays so.",
        as_json=as_json,
    )


async def show_all(home: Home, *, as_json: bool) -> None:
    """Shows every word that the mesh goes by, as the operators' authority passes them on."""
    mesh = await asyncio.to_thread(home.mesh)
    # A person who has logged in knows nobody's keys; the mesh's own bundle does.
    trust = await asyncio.to_thread(Trust.load, home.trust, mesh.name)
    operators = trust_domain(OPERATORS, mesh.name)
    async with (
        acting(home) as (_, me),
        hearing(trust, {operators: mesh.authority}, me.channel, None, patience=TIMEOUT),
    ):
        if trust.distrust.of(operators) is None:
            raise Unavailable(
                f"the authority of the operators at {mesh.authority} does not say whom the mesh distrusts; "
                "see the logs of the mesh"
            )
        entries = sorted(trust.distrust.entries, key=lambda entry: entry.issued)
        lists = trust.distrust.lists
    if as_json:
        show.document(
            {
                "entries": [_plain(entry) for entry in entries],
                "lists": [
                    {"trust_domain": one.issuer, "sequence": one.sequence, "signed": _text(one.signed)}
                    for one in lists
                ],
            }
        )
        return
    columns = ("identity", "since", "until", "by", "reason")
    rows = [
        (str(one.spiffe_id), _text(one.since), _text(one.until) or "it is lifted", one.by, one.reason)
        for one in entries
    ]
    show.table(columns, rows, empty="the mesh distrusts nobody")


async def _say(home: Home, request: DistrustRequest) -> Entry:
    """Tells the authority of the identity's own trust domain, which alone can say it."""
    mesh = await asyncio.to_thread(home.mesh)
    spiffe_id = SpiffeId.parse(request.spiffe_id)
    domain = domain_of(spiffe_id.trust_domain, mesh.name)
    address = mesh.authority_of(domain)
    async with (
        acting(home) as (_, me),
        calling_authority(me, address, spiffe_id.trust_domain) as (stub, metadata),
    ):
        answer = await stub.Distrust(request, metadata=metadata, timeout=TIMEOUT)
    return entry_of(answer.entry)


def _show(entry: Entry, sentences: str, *, as_json: bool) -> None:
    if as_json:
        show.document(_plain(entry))
    else:
        for line in sentences.splitlines():
            sys.stdout.write(f"{show.printable(line)}\n")


def _plain(entry: Entry) -> show.Row:
    return {
        "spiffe_id": str(entry.spiffe_id),
        "since": _text(entry.since),
        "until": _text(entry.until),
        "reason": entry.reason,
        "by": entry.by,
        "issued": _text(entry.issued),
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds").replace("+00:00", "Z")

"""The live memory of every process, read as root: its own key, its own tokens, and those of its callers."""

import pytest

from telltale.identity.workload import Workload
from tests.support import memory
from tests.support.attacker import GATEWAY, MESH, SERVERS, STATES, Attacker, answer, bearer

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

# The domain whose services they are: tokens that name it are shown to them. The agent has no callers; its own
# memory is looked at where it collects no arguments of processes, which hold what people type.
DOMAINS = {
    "services.writer": None,
    "services.analysis": "analysis",
    "services.servers": "servers",
    "services.network": "network",
    "services.platform": "platform",
    GATEWAY: "platform",
}


def numbers(attacker: Attacker) -> dict[str, int]:
    return {name: key.private_numbers().private_value for name, key in attacker.keys().items()}


@pytest.mark.parametrize("module", STATES)
def test_a_process_holds_its_own_key_and_no_other(attacker: Attacker, module: str) -> None:
    pid = attacker.mesh.pid(module)
    if not memory.can_be_read():
        with pytest.raises(PermissionError):
            memory.keys_in(pid)
        return
    known = numbers(attacker)
    own = known[f"state/{STATES[module]}/identity.pem"]
    assert memory.keys_in(pid, attacker.keys().values()) == {own}


@pytest.mark.parametrize("module", DOMAINS)
def test_a_process_holds_its_own_tokens_and_those_that_are_made_out_to_it(
    attacker: Attacker, module: str
) -> None:
    pid = attacker.mesh.pid(module)
    if not memory.can_be_read():
        with pytest.raises(PermissionError):
            memory.tokens_in(pid)
        return
    me, domain = attacker.steal(module).spiffe_id, DOMAINS[module]
    tokens = memory.tokens_in(pid)
    assert str(me) in {token.subject for token in tokens}
    for token in tokens:
        if token.subject in attacker.enrolled():
            continue
        made_out = domain is not None and f"{domain}.{MESH}" in token.claims["aud"]
        assert token.subject == str(me) or made_out, token.claims


async def _token_of(attacker: Attacker, who: Workload, module: str) -> memory.StolenToken:
    """A token of a caller, from the memory of the process that it has called."""
    server = GATEWAY if module == GATEWAY else module.removeprefix("services.")
    async with attacker.channel(who, server) as channel:
        metadata = await bearer(who, "platform", "servers")
        await answer(channel, "/telltale.api.mesh.v1.Catalog/ListProducts", b"", metadata)
    (text,) = {value.removeprefix("Bearer ") for _, value in metadata}
    found = memory.tokens_in(attacker.mesh.pid(module))
    return next(token for token in found if token.text == text)


@pytest.mark.skipif(not memory.can_be_read(), reason="only root reads the memory of our processes")
async def test_a_token_from_the_gateways_memory_reads_and_does_nothing_else(
    attacker: Attacker, eve: Workload
) -> None:
    stolen = await _token_of(attacker, eve, GATEWAY)
    gateway = attacker.steal(GATEWAY)
    behalf = ("telltale-on-behalf-of", stolen.text)
    # What its owner may read at the domains that it names, until it ends: so much is the gateway's work.
    async with attacker.channel(gateway, "servers") as channel:
        metadata = (*await bearer(gateway, "servers"), behalf)
        assert (await answer(channel, "/telltale.api.servers.v1.Inventory/List", b"", metadata))[0] == "OK"
        for method in ("Ingest/Push", "Ingest/Chains"):
            code, detail = await answer(channel, f"/telltale.api.mesh.v1.{method}", b"", metadata)
            assert (code, "cannot be forwarded" in detail) == ("INVALID_ARGUMENT", True), detail
        # Alone it proves nobody: it belongs to another certificate.
        alone = (("authorization", f"Bearer {stolen.text}"),)
        code, detail = await answer(channel, "/telltale.api.servers.v1.Inventory/List", b"", alone)
        assert (code, "bound to another certificate" in detail) == ("UNAUTHENTICATED", True)
    # A domain that it does not name.
    async with attacker.channel(gateway, "analysis") as channel:
        metadata = (*await bearer(gateway, "analysis"), behalf)
        code, detail = await answer(channel, "/telltale.api.analysis.v1.Findings/Subscribe", b"", metadata)
        assert (code, "not meant for analysis" in detail) == ("UNAUTHENTICATED", True)
    # And no authority invites or certifies anybody for it.
    for domain in ("servers", "operators", "platform"):
        async with attacker.authority_channel(gateway, domain) as channel:
            for metadata in (alone, (*await bearer(gateway, domain), behalf)):
                method = "/telltale.api.mesh.v1.Authority/CreateJoinToken"
                code, detail = await answer(channel, method, b"\x0a\x09/agent/me", metadata)
                assert code in ("UNAUTHENTICATED", "PERMISSION_DENIED"), detail


@pytest.mark.skipif(not memory.can_be_read(), reason="only root reads the memory of our processes")
async def test_a_token_from_a_domains_memory_is_worth_nothing_elsewhere(
    attacker: Attacker, eve: Workload
) -> None:
    stolen = await _token_of(attacker, eve, "services.servers")
    assert stolen.claims["aud"] == sorted([f"platform.{MESH}", SERVERS])
    thief = attacker.steal("services.servers")
    methods = {GATEWAY: "/telltale.api.mesh.v1.Catalog/ListProducts"}
    for server in (GATEWAY, "platform", "servers", "analysis"):
        async with attacker.channel(thief, server) as channel:
            method = methods.get(server, "/telltale.api.mesh.v1.Schemas/Get")
            code, detail = await answer(channel, method, b"", (("authorization", f"Bearer {stolen.text}"),))
            assert code == "UNAUTHENTICATED", detail
            own = await bearer(thief, "platform", "servers", "analysis")
            code, detail = await answer(channel, method, b"", (*own, ("telltale-on-behalf-of", stolen.text)))
            assert (code, "may not speak for others" in detail) == ("UNAUTHENTICATED", True), detail

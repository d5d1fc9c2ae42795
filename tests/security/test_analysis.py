"""The analysis service, taken over: it lies in its own findings, or keeps silent, and touches no data."""

import pytest

from telltale.api.mesh.v1.access_pb2 import CheckRequest
from telltale.api.mesh.v1.authority_pb2 import CreateJoinTokenRequest
from telltale.errors import BatchRefused
from telltale.seal.verify import check_owner, open_header
from tests.support.attacker import MESH, MESH_API, Attacker, answer, bearer
from tests.support.batches import Chain, disk_usage

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]


async def test_an_analysis_pushes_decides_and_invites_nothing_elsewhere(attacker: Attacker) -> None:
    analysis = attacker.steal("services.analysis")
    check = CheckRequest(token="x").SerializeToString()
    metadata = await bearer(analysis, "platform", "servers")
    async with attacker.channel(analysis, "servers") as channel:
        for method, request, permission in (
            ("Ingest/Push", b"", "`push`"),
            ("Schemas/Register", b"", "`push`"),
            ("Access/Check", check, "`forward`"),
        ):
            code, detail = await answer(channel, MESH_API + method, request, metadata)
            assert (code, permission in detail) == ("PERMISSION_DENIED", True), (method, detail)
    invite = CreateJoinTokenRequest(path="/agent/mine").SerializeToString()
    for domain in ("analysis", "servers", "operators", "platform"):
        async with attacker.authority_channel(analysis, domain) as channel:
            metadata = await bearer(analysis, domain)
            code, detail = await answer(channel, f"{MESH_API}Authority/CreateJoinToken", invite, metadata)
        assert (code, "`invite`" in detail) == ("PERMISSION_DENIED", True), detail


async def test_what_an_analysis_seals_of_a_foreign_product_holds_nowhere(attacker: Attacker) -> None:
    analysis = attacker.steal("services.analysis")
    batch = Chain(analysis.credentials).next([disk_usage("/forged")])
    # Its signature is its own and holds; the product is not its to speak of, and every reader looks.
    with pytest.raises(BatchRefused, match=r"servers\.disk_usage"):
        check_owner(open_header(batch), open_to_all=False, mesh=MESH)

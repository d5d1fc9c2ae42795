"""Whoever calls: a token is its owner's alone, nobody speaks for another, and no bytes surprise a server."""

import random

import pytest

from telltale.identity.workload import Workload
from tests.support.attacker import GATEWAY, MESH_API, SERVERS_API, Attacker, answer, bearer

# All of them share one mesh, which lives in one worker.
pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]


async def test_nobody_speaks_for_others(attacker: Attacker, eve: Workload, mallory: Workload) -> None:
    (_, stolen) = (await bearer(mallory, "servers"))[0]
    claim = ("telltale-on-behalf-of", stolen.removeprefix("Bearer "))
    for who in (eve, attacker.steal("services.writer"), mallory):
        for server in ("servers", GATEWAY):
            metadata = (*await bearer(who, "servers", "platform"), claim)
            method = "Ingest/Chains" if server == "servers" else "Catalog/ListProducts"
            async with attacker.channel(who, server) as channel:
                code, detail = await answer(channel, MESH_API + method, b"", metadata)
            assert (code, "may not speak for others" in detail) == ("UNAUTHENTICATED", True), detail
    # The gateway may, and even so pushes for nobody.
    gateway = attacker.steal(GATEWAY)
    async with attacker.channel(gateway, "servers") as channel:
        metadata = (*await bearer(gateway, "servers"), claim)
        code, detail = await answer(channel, f"{MESH_API}Ingest/Chains", b"", metadata)
    assert (code, "cannot be forwarded" in detail) == ("INVALID_ARGUMENT", True)


async def test_a_token_is_good_for_its_owner_and_its_audience(
    attacker: Attacker, eve: Workload, mallory: Workload
) -> None:
    good = await bearer(eve, "platform")
    tampered = (("authorization", good[0][1][:-8] + "AAAAAAAA"),)
    for metadata, advice in (
        ((), "add the metadata"),
        (await bearer(mallory, "platform"), "bound to another certificate"),
        (await bearer(eve, "servers"), "not meant for platform"),
        ((*good, *good), "send it once"),
        (tampered, "fetch a new one"),
        ((("authorization", "Bearer none.none.none"),), "fetch a new one"),
    ):
        async with attacker.channel(eve, GATEWAY) as channel:
            for method in (
                f"{MESH_API}Catalog/ListProducts",
                f"{SERVERS_API}DiskUsage/Subscribe",
                "/no.Such/Method",
            ):
                code, detail = await answer(channel, method, b"", metadata)
                assert (code, advice in detail) == ("UNAUTHENTICATED", True), (method, detail)


async def test_random_bytes_on_any_method_are_the_callers_mistake(
    attacker: Attacker, eve: Workload, mallory: Workload
) -> None:
    chance = random.Random(1)
    methods = [
        f"{MESH_API}{one}" for one in ("Ingest/Push", "Ingest/Chains", "Schemas/Register", "Schemas/Get")
    ]
    methods += [f"{MESH_API}{one}" for one in ("Access/Check", "Catalog/ListProducts", "Stream/Subscribe")]
    methods += [f"{SERVERS_API}{one}" for one in ("DiskUsage/Subscribe", "Inventory/List", "Inventory/Watch")]
    methods += [f"/grpc.reflection.{one}.ServerReflection/ServerReflectionInfo" for one in ("v1", "v1alpha")]
    methods += ["/grpc.health.v1.Health/Check"]
    for who, server in ((mallory, "servers"), (eve, GATEWAY)):
        metadata = await bearer(who, "servers", "platform")
        async with attacker.channel(who, server) as channel:
            for method in methods:
                # No message begins with field 31 of wire type 7.
                code, detail = await answer(channel, method, b"\xff" + chance.randbytes(60), metadata)
                assert code in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "UNIMPLEMENTED"), (
                    method,
                    code,
                    detail,
                )
                assert "traceback" not in detail

"""Who floods a domain waits for itself: others are looked at in turn, whatever lies before them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse
from telltale.naming import SpiffeId
from tests.support.batches import Chain, disk_usage
from tests.support.domain import Running
from tests.support.mesh import Mesh

FLOODING = 3


def pushes(mesh: Mesh, name: str, count: int) -> tuple[SpiffeId, list[PushRequest]]:
    """So many requests of one batch each, of one source."""
    credentials = mesh.workload("servers", f"/agent/{name}").credentials
    chain = Chain(credentials)
    requests = [
        PushRequest(batches=[chain.next([disk_usage("/")])], certificates=credentials.certificates)
        for _ in range(count)
    ]
    return credentials.spiffe_id, requests


@pytest.fixture
def examined(servers: Running, monkeypatch: pytest.MonkeyPatch) -> list[SpiffeId]:
    """Whose requests were examined, in order; the examiner is the real one."""
    order: list[SpiffeId] = []
    examiner = servers.domain.ingest._examiner
    examine: Callable[..., Any] = examiner.examine

    def noted(source: SpiffeId, *rest: Any) -> Any:
        order.append(source)
        return examine(source, *rest)

    monkeypatch.setattr(examiner, "examine", noted)
    return order


async def test_a_batch_waits_for_one_request_of_each_flooding_source_at_most(
    servers: Running, mesh: Mesh, examined: list[SpiffeId]
) -> None:
    ingest = servers.domain.ingest
    floods = [pushes(mesh, f"flood{number}", 30) for number in range(FLOODING)]
    quiet, (single,) = pushes(mesh, "quiet", 1)
    flooding = [
        asyncio.create_task(ingest.accept(source, request))
        for source, requests in floods
        for request in requests
    ]
    while len(examined) < FLOODING:  # noqa: ASYNC110 - a thread appends
        await asyncio.sleep(0)
    before = len(examined)
    response = await ingest.accept(quiet, single)
    assert len(response.acks) == 1
    # Those that were in their turn when it came, and none that came to it meanwhile.
    assert examined.index(quiet) - before <= FLOODING
    responses: list[PushResponse] = await asyncio.gather(*flooding)
    assert sum(len(response.acks) for response in responses) == FLOODING * 30
    # Nothing is kept of sources that have nothing here any more.
    del flooding
    assert not dict(ingest._turns)

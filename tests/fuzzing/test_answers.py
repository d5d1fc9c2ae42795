"""Whatever a domain service answers a source: it is counted before it is parsed."""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from telltale import wire
from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.api.mesh.v1.ingest_pb2 import (
    Ack,
    ChainHead,
    ChainsResponse,
    PushResponse,
    Refusal,
    RefusalReason,
)
from telltale.seal.sealing import sha256
from telltale.source.answers import MAX_ANSWERS, MAX_CHAINS, parse_chains, parse_push
from telltale.source.spool import reason_name
from tests.fuzzing import world
from tests.fuzzing.campaign import Share, Target, run, shares
from tests.support.batches import DISK_USAGE


def push_answers() -> list[bytes]:
    headers = [Header.FromString(batch.header) for batch in world.batches(DISK_USAGE)]
    acks = [Ack(product=one.product, epoch=one.epoch, sequence=one.sequence) for one in headers]
    refusals = [
        Refusal(
            product=ack.product,
            epoch=ack.epoch,
            sequence=ack.sequence,
            reason=reason,
            detail="why",
            final=bool(reason % 2),
        )
        for ack, reason in zip(acks * 3, RefusalReason.values(), strict=False)
    ]
    return [
        PushResponse(acks=acks).SerializeToString(),
        PushResponse(acks=acks[:1], refusals=refusals).SerializeToString(),
        # As many as there may be, each as small as it can be.
        wire.field(1, b"") * MAX_ANSWERS,
    ]


def a_push_answer(data: bytes) -> bool:
    """It has no more parts than a source has batches on their way, and each refusal has a name."""
    response = parse_push(data)
    assert len(response.acks) + len(response.refusals) <= MAX_ANSWERS
    return all(reason_name(refusal) for refusal in response.refusals)


def chain_answers() -> list[bytes]:
    headers = [batch.header for batch in world.batches(DISK_USAGE)]
    heads = [
        ChainHead(product=DISK_USAGE, epoch=1_000, sequence=number, header_sha256=sha256(header))
        for number, header in enumerate(headers)
    ]
    return [ChainsResponse(chains=heads).SerializeToString(), wire.field(1, b"") * MAX_CHAINS]


def a_chain_answer(data: bytes) -> bool:
    return len(parse_chains(data).chains) <= MAX_CHAINS


@shares(
    Target("answer to a push", 40_000, push_answers, a_push_answer, refusals=(DecodeError,)),
    Target("answer of known chains", 20_000, chain_answers, a_chain_answer, refusals=(DecodeError,)),
)
def test_an_answer_is_bounded_or_refused(
    share: Share, record_property: Callable[[str, object], None]
) -> None:
    run(share, record_property)

"""The parts of a sealed batch: what a domain stores is what protobuf itself would have written."""

from hypothesis import given
from hypothesis import strategies as st

from telltale import wire
from telltale.api.mesh.v1.batch_pb2 import SealedBatch
from telltale.seal.parts import Parts


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=400))
def test_parts_are_encoded_as_protobuf_encodes_the_message(
    header: bytes, signature: bytes, payload: bytes
) -> None:
    message = SealedBatch(header=header, signature=signature, payload=payload)
    assert Parts.of(message).encode() == message.SerializeToString()


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_what_is_not_of_the_sources_making_is_left_behind(delivery: bytes, unknown: bytes) -> None:
    known = SealedBatch(header=b"header", signature=b"signature", payload=b"payload")
    sent = SealedBatch.FromString(
        known.SerializeToString()
        + wire.field(SealedBatch.DELIVERY_FIELD_NUMBER, delivery)
        + wire.field(99, unknown)
    )
    assert Parts.of(sent).encode() == known.SerializeToString()

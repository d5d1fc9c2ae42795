"""What a frame may hold, and what a schema may say for a batch."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from telltale.api.mesh.v1.batch_pb2 import Header, SealedFrame
from telltale.consume.checking import MAX_BATCHES, MAX_CERTIFICATES, check_frame, check_schema
from telltale.contract.image import own_image, parse_set
from telltale.contract.product import contracts_in
from telltale.contract.schema import Schema
from telltale.errors import BatchRefused, Unavailable
from telltale.seal.verify import Verifier
from telltale.wire import fields
from tests.support.batches import DISK_USAGE, SCHEMAS
from tests.support.mesh import Mesh

PLATFORM = own_image("platform")
SOURCE = "spiffe://servers.telltale.test/agent/web1"


def test_a_schema_speaks_of_the_products_of_one_domain() -> None:
    own = SCHEMAS[DISK_USAGE]
    processes = next(one for one in contracts_in(PLATFORM) if one.name == "mesh.processes")
    files = {
        one.name: one for data in (own, Schema.of(PLATFORM, processes)) for one in parse_set(data.data).file
    }
    schema = Schema.parse(FileDescriptorSet(file=files.values()).SerializeToString())
    assert {contract.name.partition(".")[0] for contract in schema.contracts()} == {"servers", "mesh"}
    header = Header(product=DISK_USAGE, source=SOURCE)
    assert check_schema(header, own, "telltale.test", ()).name == DISK_USAGE
    with pytest.raises(BatchRefused, match="products of other domains too"):
        check_schema(header, schema, "telltale.test", ())


@pytest.mark.parametrize(("number", "most"), [(1, MAX_BATCHES), (2, MAX_CERTIFICATES)])
def test_a_frame_of_more_parts_than_real_ones_fit_is_not_read(number: int, most: int, tmp_path: Path) -> None:
    verifier = Verifier(Mesh.create(tmp_path, "servers").trust)
    frame = SealedFrame.FromString(fields(number, [b""] * (most + 1)))
    with pytest.raises(Unavailable, match=f"at most {MAX_BATCHES} and {MAX_CERTIFICATES} are read"):
        check_frame(frame, verifier, ["servers.*"], datetime.now(UTC))

"""What a schema may say for a batch."""

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from telltale.api.mesh.v1.batch_pb2 import Header
from telltale.consume.checking import check_schema
from telltale.contract.image import own_image, parse_set
from telltale.contract.product import contracts_in
from telltale.contract.schema import Schema
from telltale.errors import BatchRefused
from tests.support.batches import DISK_USAGE, SCHEMAS

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

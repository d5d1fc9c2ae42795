"""The owner decides what a product is: its sources may be older than their domain, and never ahead of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from telltale.api.mesh.v1.product_pb2 import Classification
from telltale.cli.scaffold import proto_text
from telltale.contract.image import Image
from telltale.contract.product import contracts_in
from telltale.contract.schema import Schema
from telltale.domain.clearance import Clearance
from telltale.domain.log import ProductLog
from telltale.domain.products import Products
from telltale.errors import Precondition
from telltale.naming import SpiffeId
from tests.support.protos import compile_image

SOURCE = SpiffeId.parse("spiffe://servers.telltale.test/agent/web1")
FANS = "telltale/api/servers/v1/fans.proto"
OLD = proto_text("servers.fans", "samples", Path("nowhere"))
NEW = OLD.replace("message FansRecord {", "message FansRecord {\n  // Speed.\n  uint64 turns = 90;", 1)
OTHER = NEW.replace("uint64 turns", "string turns")


def image(text: str) -> Image:
    return compile_image({FANS: text})


def schema(text: str) -> Schema:
    made = image(text)
    return Schema.of(made, contracts_in(made)[0])


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[ProductLog]:
    async with ProductLog(tmp_path / "log.db") as made:
        yield made


async def test_a_source_may_be_older_than_its_domain(log: ProductLog) -> None:
    products = Products(image(NEW), log)
    await products.load()
    await products.register(schema(OLD), SOURCE)
    assert products.knows(schema(OLD).sha256)


async def test_a_source_ahead_of_its_domain_waits_for_the_upgrade(log: ProductLog) -> None:
    products = Products(image(OLD), log)
    await products.load()
    with pytest.raises(Precondition, match="upgrade the domain service"):
        await products.register(schema(NEW), SOURCE)
    upgraded = Products(image(NEW), log)
    await upgraded.load()
    await upgraded.register(schema(NEW), SOURCE)


async def test_nothing_that_the_log_holds_keeps_a_domain_from_starting(log: ProductLog) -> None:
    await log.add_schema(schema(OTHER).data)
    products = Products(image(NEW), log)
    await products.load()
    assert products.knows(schema(NEW).sha256)
    # What was sealed with it can still be read.
    assert products.schema(schema(OTHER).sha256).data == schema(OTHER).data


async def test_what_a_product_once_held_is_remembered_with_its_highest_classification(
    log: ProductLog,
) -> None:
    """Its batches are in the log still, and a reader of sealed batches gets their bytes."""

    def version(classification: str) -> str:
        option = f"[(telltale.api.mesh.v1.field) = {{classification: CLASSIFICATION_{classification}}}]"
        with_owner = OLD.replace(
            "message FansRecord {", f"message FansRecord {{\n  // Who.\n  string who = 91 {option};", 1
        )
        return with_owner.replace("CLASSIFICATION_INTERNAL\n", "CLASSIFICATION_PERSONAL\n", 1)

    later = OLD.replace("message FansRecord {", 'message FansRecord {\n  reserved 91;\n  reserved "who";', 1)
    for classification in ("PERSONAL", "CONFIDENTIAL"):
        await log.add_schema(schema(version(classification)).data)
    products = Products(image(later), log)
    await products.load()
    assert products.former == {"servers.fans": {"who": Classification.CLASSIFICATION_PERSONAL}}
    clearance = Clearance(
        products.contract("servers.fans"),
        frozenset({Classification.CLASSIFICATION_INTERNAL}),
        products.former["servers.fans"],
    )
    assert clearance.masked == ("who",)

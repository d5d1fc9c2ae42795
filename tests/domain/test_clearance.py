"""What a caller may not see is nowhere in what it gets: in no field, no digest and no signature."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from telltale.api.mesh.v1.batch_pb2 import Delivery, Header, Loss, Origin, SealedBatch
from telltale.api.mesh.v1.product_pb2 import Classification
from telltale.contract.classified import left_behind
from telltale.contract.product import Contract, contracts_in
from telltale.contract.schema import message_class
from telltale.domain.clearance import Clearance, NotCleared
from telltale.identity.credentials import Credentials
from telltale.seal.sealing import seal
from tests.support.mesh import Mesh
from tests.support.protos import compile_image

CLASSIFICATIONS = PUBLIC, INTERNAL, CONFIDENTIAL, PERSONAL = (
    Classification.CLASSIFICATION_PUBLIC,
    Classification.CLASSIFICATION_INTERNAL,
    Classification.CLASSIFICATION_CONFIDENTIAL,
    Classification.CLASSIFICATION_PERSONAL,
)
NO_PEOPLE = frozenset({PUBLIC, INTERNAL, CONFIDENTIAL})

PROTO = """
syntax = "proto3";
package telltale.api.servers.v1;
import "google/protobuf/timestamp.proto";
import "telltale/api/mesh/v1/batch.proto";
import "telltale/api/mesh/v1/inventory.proto";
import "telltale/api/mesh/v1/product.proto";
import "telltale/api/mesh/v1/stream.proto";

service Desks {
  option (telltale.api.mesh.v1.product) = {
    name: "servers.desks" kind: KIND_INVENTORY owner: "servers" support: "servers@example.org"
    version: "1.0.0" status: STATUS_STABLE purpose: "Tell who sits where."
    classification: CLASSIFICATION_PERSONAL
    freshness: {seconds: 60} retention: {seconds: 86400}
  };
  rpc Subscribe(telltale.api.mesh.v1.SubscribeRequest) returns (stream DesksFrame);
  rpc List(telltale.api.mesh.v1.ListRequest) returns (DesksList);
  rpc Watch(telltale.api.mesh.v1.WatchRequest) returns (stream DesksFrame);
}
message DesksRecord {
  google.protobuf.Timestamp time = 1 [(telltale.api.mesh.v1.field) = {roles: ROLE_TIME}];
  string owner = 2 [(telltale.api.mesh.v1.field) = {roles: ROLE_KEY classification: CLASSIFICATION_PERSONAL}];
  uint32 floor = 3;
  repeated string guests = 4 [(telltale.api.mesh.v1.field) = {classification: CLASSIFICATION_PERSONAL}];
  Thing first = 5;
  repeated Thing things = 6;
  map<string, Thing> named = 7;
  Badge badge = 8 [(telltale.api.mesh.v1.field) = {classification: CLASSIFICATION_PERSONAL}];
  oneof contact {
    string phone = 9 [(telltale.api.mesh.v1.field) = {classification: CLASSIFICATION_PERSONAL}];
    uint32 room = 10;
  }
  %s
}
message Thing {
  string label = 1;
  string holder = 2 [(telltale.api.mesh.v1.field) = {classification: CLASSIFICATION_PERSONAL}];
  Badge tag = 3;
}
message Badge {
  uint32 colour = 1;
  bytes code = 2 [(telltale.api.mesh.v1.field) = {classification: CLASSIFICATION_PERSONAL}];
}
message DesksFrame {
  message Records { repeated DesksRecord records = 1; repeated DesksRecord removed = 2; }
  message Batch {
    telltale.api.mesh.v1.Header header = 1;
    bytes signature = 2;
    Records payload = 3;
    telltale.api.mesh.v1.Delivery delivery = 4;
  }
  repeated Batch batches = 1;
  repeated bytes certificates = 2;
  telltale.api.mesh.v1.Gap gap = 3;
  telltale.api.mesh.v1.Sync sync = 4;
}
message DesksList {
  message Entry { string source = 1; google.protobuf.Timestamp stale_since = 2; DesksRecord record = 3; }
  repeated Entry entries = 1;
  string next_page_token = 2;
  telltale.api.mesh.v1.Position position = 3;
  repeated string masked_fields = 4;
}
"""
FILE = "telltale/api/servers/v1/desks.proto"
# A field of an earlier version, which the present one has given up.
EARLIER = "string mother = 11 [(telltale.api.mesh.v1.field) = {classification: CLASSIFICATION_PERSONAL}];"


def contract(more: str = 'reserved 11; reserved "mother";') -> Contract:
    (found,) = contracts_in(compile_image({FILE: PROTO % more}))
    return found


DESKS, FORMER = contract(), contract(EARLIER)
HIDDEN = (
    "owner", "guests", "first.holder", "first.tag.code", "things.holder", "things.tag.code",
    "named.holder", "named.tag.code", "badge", "phone",
)  # fmt: skip


def sight(*sees: Classification, former: Mapping[str, Classification] | None = None) -> Clearance:
    return Clearance(DESKS, frozenset(sees), former or {})


def record(values: Mapping[str, Any], of: Contract = DESKS) -> Any:
    return message_class(of.record)(**values)


# Letters that stand in nothing else, so that finding them means finding what was hidden.
SECRET = st.text(st.sampled_from("\u0416\u0429\u042f\u0434\u0436\u044f"), min_size=3, max_size=9)
CODE = SECRET.map(str.encode)


VISIBLE = st.fixed_dictionaries({"floor": st.integers(0, 3), "label": st.sampled_from(["", "a", "b"])})
SECRETS = st.fixed_dictionaries(
    {
        "owner": SECRET,
        "guests": st.lists(SECRET, max_size=3),
        "holder": SECRET,
        "code": CODE,
        "phone": SECRET,
        "mother": SECRET,
    }
)


def desk(visible: Mapping[str, Any], secret: Mapping[str, Any]) -> Any:
    """A record of the earlier version, with every kind of field that can be hidden."""
    thing = {
        "label": visible["label"],
        "holder": secret["holder"],
        "tag": {"colour": visible["floor"], "code": secret["code"]},
    }
    return record(
        {
            "owner": secret["owner"],
            "floor": visible["floor"],
            "guests": secret["guests"],
            "first": thing,
            "things": [thing, thing],
            "named": {"x": message_class(FORMER.record.fields_by_name["first"].message_type)(**thing)},
            "badge": {"colour": 7, "code": secret["code"]},
            "phone": secret["phone"],
            "mother": secret["mother"],
        },
        FORMER,
    )


def texts(secret: Mapping[str, Any]) -> list[bytes]:
    values = [secret[name] for name in ("owner", "holder", "phone", "mother")] + list(secret["guests"])
    return [value.encode() for value in values] + [secret["code"]]


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    mesh = Mesh.create(tmp_path_factory.mktemp("mesh"), "servers")
    return mesh.credentials("servers", "/agent/web1")


def sealed(credentials: Credentials, records: list[Any], removed: list[Any], previous: bytes) -> bytes:
    """A batch as the log has it."""
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    header = Header(
        product=DESKS.name,
        source=str(credentials.spiffe_id),
        epoch=1,
        sequence=2,
        record_count=len(records) + len(removed),
        previous_header_sha256=previous,
        schema_sha256=b"s" * 32,
        origin=Origin.ORIGIN_AUTHENTICATED,
        losses=[Loss(records=1, detail=f"could not read the desk of {records[0].owner}")] if records else [],
    )
    header.sealed_time.FromDatetime(moment)
    payload = message_class(FORMER.records)(records=records, removed=removed).SerializeToString()
    batch = seal(credentials, header, payload)
    batch.delivery = Delivery(log="l", offset=9).SerializeToString()
    return batch.SerializeToString()


def test_what_is_hidden_is_named_once_and_in_order() -> None:
    assert sight(*NO_PEOPLE).masked == HIDDEN
    assert sight(*CLASSIFICATIONS).masked == ()
    assert sight().masked == tuple(field.name for field in DESKS.record.fields)
    assert sight(PERSONAL).masked[:2] == ("time", "floor")


def test_fields_that_the_product_once_had_are_hidden_too() -> None:
    former = left_behind(FORMER.record, DESKS.record)
    assert former == {"mother": PERSONAL}
    assert sight(*NO_PEOPLE, former=former).masked == (*HIDDEN, "mother")
    assert sight(*CLASSIFICATIONS, former=former).masked == ()
    assert left_behind(DESKS.record, FORMER.record) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VISIBLE, SECRETS, SECRETS), min_size=1, max_size=3))
def test_what_is_hidden_changes_nothing_in_what_is_shown(
    credentials: Credentials, rows: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]
) -> None:
    clearance = sight(*NO_PEOPLE)
    copies = []
    for which in (1, 2):
        records = [desk(row[0], row[which]) for row in rows]
        shown = [clearance.masked_record(one.SerializeToString()) for one in records]
        copies.append(
            (shown, clearance.masked_batch(sealed(credentials, records, records, b"p" * 32 * which)))
        )
    assert copies[0] == copies[1], "two sources that differ in hidden fields only cannot be told apart"
    for value in (text for row in rows for secret in row[1:] for text in texts(secret)):
        assert value not in copies[0][1] and not any(value in one for one in copies[0][0])


def test_a_masked_batch_shows_the_rest_and_says_what_is_missing(credentials: Credentials) -> None:
    secret = {"owner": "ann", "guests": ["bob"], "holder": "ann", "code": b"1", "phone": "2", "mother": "eve"}
    one = desk({"floor": 3, "label": "chair"}, secret)
    batch = SealedBatch.FromString(
        sight(*NO_PEOPLE).masked_batch(sealed(credentials, [one], [one], b"p" * 32))
    )
    header, delivery = Header.FromString(batch.header), Delivery.FromString(batch.delivery)
    assert (header.sequence, header.record_count, delivery.offset) == (2, 2, 9)
    assert tuple(delivery.masked_fields) == HIDDEN
    assert not (batch.signature or header.payload_sha256 or header.previous_header_sha256)
    assert [loss.records for loss in header.losses] == [1] and not header.losses[0].detail
    payload: Any = message_class(DESKS.records).FromString(batch.payload)
    shown = payload.records[0]
    assert (shown.floor, shown.first.label, shown.things[1].tag.colour) == (3, "chair", 3)
    assert shown.named["x"].label == "chair" and not shown.HasField("badge")
    assert shown.WhichOneof("contact") is None
    assert len(payload.removed) == 1 and not payload.removed[0].owner


def test_times_of_a_header_go_with_the_time_of_its_records(credentials: Credentials) -> None:
    one = record({"floor": 1}, FORMER)
    header = Header(first_event_time={"seconds": 1}, last_event_time={"seconds": 2})
    batch = SealedBatch.FromString(sealed(credentials, [], [one], b""))
    batch.header = header.SerializeToString()
    kept = Header.FromString(
        SealedBatch.FromString(sight(*NO_PEOPLE).masked_batch(batch.SerializeToString())).header
    )
    assert kept == header
    gone = SealedBatch.FromString(sight(PERSONAL).masked_batch(batch.SerializeToString()))
    assert Header.FromString(gone.header) == Header()


def test_a_filter_may_ask_for_what_is_visible_only() -> None:
    clearance = sight(*NO_PEOPLE)
    clearance.require_visible("ann", "floor")
    with pytest.raises(NotCleared) as refused:
        clearance.require_visible("ann", "owner")
    assert (
        str(refused.value) == "ann may not see owner (personal) of servers.desks; leave it out of the filter"
    )


def test_a_refusal_of_the_stream_names_fields_and_the_other_way() -> None:
    said = sight(*NO_PEOPLE).refusal("ann")
    assert said.startswith("ann may not see owner (personal), guests (personal), first.holder (personal)")
    assert (
        "and 2 more of servers.desks" in said and "List and Watch serve it with these fields masked" in said
    )


def test_bytes_that_no_contract_names_are_not_shown() -> None:
    """Field 99 of the record and field 98 of a thing: a hostile source's own."""
    stowaway = b"\x9a\x06\x04evil" + b"\x2a\x08\x92\x06\x05trick"
    shown = sight(*NO_PEOPLE).masked_record(record({"floor": 2}).SerializeToString() + stowaway)
    assert b"evil" not in shown and b"trick" not in shown
    seen: Message = message_class(DESKS.record).FromString(shown)
    assert seen == record({"floor": 2, "first": {}})

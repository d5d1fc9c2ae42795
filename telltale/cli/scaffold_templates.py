"""What a new product starts as: small, complete and working, for its team to make its own.

`$placeholders` are filled by `string.Template`; each kind reads something that every Linux host has.
"""

from dataclasses import dataclass
from string import Template as Template

PROTO = Template("""\
syntax = "proto3";

package telltale.api.$domain.v1;

import "google/protobuf/timestamp.proto";
import "telltale/api/mesh/v1/batch.proto";
import "telltale/api/mesh/v1/product.proto";
import "telltale/api/mesh/v1/stream.proto";

// $description
service $title {
  option (telltale.api.mesh.v1.product) = {
    name: "$product"
    kind: KIND_$kind
    owner: "$owner"
    support: "$support"
    version: "0.1.0"
    status: STATUS_EXPERIMENTAL
    purpose: "$purpose"
    limitations: "Only hosts with an agent."
    classification: CLASSIFICATION_INTERNAL
    freshness: {seconds: $freshness}
    retention: {seconds: $retention}
  };
  // Streams sealed batches from the cursor on, then live. The caller needs `subscribe` on this product.
  // PERMISSION_DENIED without it; UNAUTHENTICATED when the caller's token expires: go on from the cursor.
  rpc Subscribe(telltale.api.mesh.v1.SubscribeRequest) returns (stream ${title}Frame);
$methods}

$record
// One message of the stream.
message ${title}Frame {
  // Payload of a batch.
  message Records {
    repeated ${title}Record records = 1;
$removed  }
  // One sealed batch, opened.
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
$listing""")

INVENTORY_METHODS = Template("""\
  // Returns the current state, a page at a time. The caller needs `list` on this product.
  // PERMISSION_DENIED without it; INVALID_ARGUMENT when the filter or the page token does not hold.
  rpc List(telltale.api.mesh.v1.ListRequest) returns (${title}List);
  // Streams the current state, a sync mark, then every change. The caller needs `subscribe` on this product.
  // PERMISSION_DENIED without it; UNAUTHENTICATED when the caller's token expires: watch again.
  rpc Watch(telltale.api.mesh.v1.WatchRequest) returns (stream ${title}Frame);
""")

INVENTORY_REMOVED = Template("""\
    // Keys of records that are no more; other fields are empty.
    repeated ${title}Record removed = 2;
""")

INVENTORY_LISTING = Template("""\

// One page of the current state.
message ${title}List {
  // One row of the current state.
  message Entry {
    // SPIFFE ID of the source that said so.
    string source = 1;
    // Since when the source has been silent beyond the product's freshness. Absent when it is not.
    google.protobuf.Timestamp stale_since = 2;
    ${title}Record record = 3;
  }
  repeated Entry entries = 1;
  // Token of the next page; empty on the last.
  string next_page_token = 2;
  // State that the page shows: everything up to this position.
  telltale.api.mesh.v1.Position position = 3;
  // Fields of the record that the caller may not see: they are empty in every entry.
  repeated string masked_fields = 4;
}
""")

COLLECTORS = Template('''\
"""The collectors of the $domain domain, each named once."""

from agent.collectors import CollectorFactory

COLLECTORS: tuple[CollectorFactory, ...] = ()
''')


@dataclass(frozen=True)
class Start:
    """What a new product of one kind starts with."""

    description: str
    purpose: str
    freshness: int
    retention: int
    record: Template
    collector: Template
    test: Template


SAMPLES = Start(
    description="How long every host has been up, as its kernel counts.",
    purpose="Tell which hosts were restarted, and when.",
    freshness=60,
    retention=2592000,
    record=Template("""\
// One host at one moment.
message ${title}Record {
  // When the host looked. Required.
  google.protobuf.Timestamp time = 1 [(telltale.api.mesh.v1.field) = {roles: ROLE_TIME}];
  // Time since the host booted.
  double uptime_seconds = 2 [(telltale.api.mesh.v1.field) = {
    unit: "s"
    semconv: "system.uptime"
    roles: ROLE_GAUGE
  }];
}
"""),
    collector=Template('''\
"""`$product`: how long the host has been up, from /proc/uptime."""

from collections.abc import Iterator
from datetime import timedelta

from agent.collectors import Collector, Host, timestamp
from telltale.api.$domain.v1.${name}_pb2 import ${title}Record


def parse_uptime(text: str) -> float:
    """Seconds since boot."""
    return float(text.split()[0])


class $title(Collector):
    """The host itself."""

    product = "$product"
    interval = timedelta(seconds=30)

    def __init__(self, host: Host) -> None:
        self._uptime = host.proc / "uptime"

    def collect(self) -> Iterator[${title}Record]:
        yield ${title}Record(time=timestamp(), uptime_seconds=parse_uptime(self._uptime.read_text()))
'''),
    test=Template('''\
"""`$product` says what /proc/uptime says."""

from pathlib import Path

from agent.collectors import Host
from agent.collectors.$domain.$name import $title, parse_uptime


def test_the_first_number_is_the_uptime() -> None:
    assert parse_uptime("350735.47 234388.90\\n") == 350735.47


def test_one_record_tells_the_uptime(tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("12.5 20.0\\n")
    (record,) = $title(Host(proc=tmp_path)).collect()
    assert record.uptime_seconds == 12.5
    assert record.HasField("time")
'''),
)

EVENTS = Start(
    description="Changes of a host's name, each when it was noticed.",
    purpose="Tell when a host began to call itself by another name.",
    freshness=86400,
    retention=7776000,
    record=Template("""\
// One change of the name.
message ${title}Record {
  // When the change was noticed. Required.
  google.protobuf.Timestamp time = 1 [(telltale.api.mesh.v1.field) = {roles: ROLE_TIME}];
  // Name before the change.
  string previous_name = 2;
  // Name since the change. Required.
  string host_name = 3 [(telltale.api.mesh.v1.field) = {
    semconv: "host.name"
    roles: ROLE_ENTITY_HOST
  }];
}
"""),
    collector=Template('''\
"""`$product`: changes of the host's name, from /proc/sys/kernel/hostname."""

from collections.abc import Iterator
from datetime import timedelta

from agent.collectors import Collector, Host, timestamp
from telltale.api.$domain.v1.${name}_pb2 import ${title}Record


class $title(Collector):
    """Compares each reading with the one before."""

    product = "$product"
    interval = timedelta(seconds=10)

    def __init__(self, host: Host) -> None:
        self._file = host.proc / "sys" / "kernel" / "hostname"
        self._known: str | None = None

    def collect(self) -> Iterator[${title}Record]:
        before, self._known = self._known, self._file.read_text().strip()
        if before is not None and before != self._known:
            yield ${title}Record(time=timestamp(), previous_name=before, host_name=self._known)
'''),
    test=Template('''\
"""`$product` reports a change once."""

from pathlib import Path

from agent.collectors import Host
from agent.collectors.$domain.$name import $title


def test_a_change_is_reported_once(tmp_path: Path) -> None:
    file = tmp_path / "sys" / "kernel" / "hostname"
    file.parent.mkdir(parents=True)
    collector = $title(Host(proc=tmp_path))
    file.write_text("web-1\\n")
    assert list(collector.collect()) == []
    file.write_text("web-2\\n")
    (change,) = collector.collect()
    assert (change.previous_name, change.host_name) == ("web-1", "web-2")
    assert list(collector.collect()) == []
'''),
)

INVENTORY = Start(
    description="Which filesystem types the kernel of every host knows.",
    purpose="Tell which hosts can mount what.",
    freshness=7200,
    retention=31536000,
    record=Template("""\
// One filesystem type of one host.
message ${title}Record {
  // When the host looked. Required.
  google.protobuf.Timestamp time = 1 [(telltale.api.mesh.v1.field) = {roles: ROLE_TIME}];
  // Type, such as `ext4`. Required.
  string filesystem_type = 2 [(telltale.api.mesh.v1.field) = {
    semconv: "system.filesystem.type"
    roles: ROLE_KEY
  }];
  // Whether it needs a device to mount.
  bool needs_device = 3;
}
"""),
    collector=Template('''\
"""`$product`: filesystem types that the kernel knows, from /proc/filesystems."""

from collections.abc import Iterator
from datetime import timedelta

from agent.collectors import Collector, Host, timestamp
from telltale.api.$domain.v1.${name}_pb2 import ${title}Record


def parse_filesystems(text: str) -> Iterator[tuple[str, bool]]:
    """Every type, and whether it needs a device."""
    for line in text.splitlines():
        flag, _, name = line.partition("\\t")
        yield name, flag != "nodev"


class $title(Collector):
    """The whole list each time; the runner finds what changed."""

    product = "$product"
    interval = timedelta(minutes=5)

    def __init__(self, host: Host) -> None:
        self._filesystems = host.proc / "filesystems"

    def collect(self) -> Iterator[${title}Record]:
        time = timestamp()
        for name, needs_device in parse_filesystems(self._filesystems.read_text()):
            yield ${title}Record(time=time, filesystem_type=name, needs_device=needs_device)
'''),
    test=Template('''\
"""`$product` lists what /proc/filesystems lists."""

from pathlib import Path

from agent.collectors import Host
from agent.collectors.$domain.$name import $title


def test_every_type_is_a_record(tmp_path: Path) -> None:
    (tmp_path / "filesystems").write_text("nodev\\tsysfs\\n\\text4\\n")
    records = list($title(Host(proc=tmp_path)).collect())
    assert [(record.filesystem_type, record.needs_device) for record in records] == [
        ("sysfs", False),
        ("ext4", True),
    ]
'''),
)

STARTS = {"samples": SAMPLES, "events": EVENTS, "inventory": INVENTORY}

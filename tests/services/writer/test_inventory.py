import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.writer import inventory
from services.writer.store import Store
from telltale.api.mesh.v1.batch_pb2 import Hole, HoleReason, SealedBatch, Snapshot
from telltale.consume.delivered import Item
from telltale.domain.inventory import Change, Query
from telltale.domain.log import Candidate, ProductLog
from telltale.seal.sealing import sha256
from tests.support.batches import INVENTORY, SCHEMAS, Chain, header_of, host
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

State = dict[str, int]


def current(database: Path) -> State:
    connection = sqlite3.connect(database)
    try:
        if not connection.execute("SELECT 1 FROM products").fetchone():
            return {}
        return dict(connection.execute("SELECT host_name, cpu_count FROM servers_inventory").fetchall())
    finally:
        connection.close()


def staged(database: Path) -> int:
    connection = sqlite3.connect(database)
    try:
        return int(connection.execute("SELECT count(*) FROM staged").fetchone()[0])
    finally:
        connection.close()


def changes(database: Path) -> list[tuple[str, str, int]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(
            "SELECT _change, host_name, cpu_count FROM servers_inventory_history ORDER BY _row"
        ).fetchall()
    finally:
        connection.close()


def chain_of(mesh: Mesh) -> Chain:
    return Chain(mesh.credentials("servers", "/agent/web1"), INVENTORY)


async def test_deltas_upsert_and_remove_and_every_change_is_history(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    steps = [
        chain.next([host("a", cpu_count=1), host("b", cpu_count=2)]),
        chain.next([host("a", cpu_count=1)]),
        chain.next([host("a", cpu_count=4)], removed=[host("b")]),
        chain.next(removed=[host("never")]),
    ]
    for batch in steps:
        await store.commit([log.deliver(batch)])
    assert current(database) == {"a": 4}
    assert changes(database) == [
        ("UPSERT", "a", 1),
        ("UPSERT", "b", 2),
        ("UPSERT", "a", 4),
        ("DELETE", "b", 2),
    ]


async def test_a_snapshot_deletes_what_it_lacks_of_its_source_only(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    other = Chain(mesh.credentials("servers", "/agent/web2"), INVENTORY)
    await store.commit([log.deliver(other.next([host("other", cpu_count=9)]))])
    await store.commit([log.deliver(chain.next([host("a", cpu_count=1), host("b", cpu_count=2)]))])
    await store.commit([log.deliver(chain.next([host("c", cpu_count=3)], snapshot=Snapshot(id="s")))])
    assert current(database) == {"other": 9, "a": 1, "b": 2}
    end = chain.next([host("b", cpu_count=2)], snapshot=Snapshot(id="s", index=1, end=True))
    await store.commit([log.deliver(end)])
    assert current(database) == {"other": 9, "b": 2, "c": 3}


async def test_a_snapshot_that_lacks_a_part_changes_nothing(store: Store, database: Path, mesh: Mesh) -> None:
    chain, log = chain_of(mesh), Log()
    await store.commit([log.deliver(chain.next([host("a", cpu_count=1), host("b", cpu_count=2)]))])
    first = chain.next([host("a", cpu_count=1)], snapshot=Snapshot(id="s"))
    chain.next([host("b", cpu_count=2)], snapshot=Snapshot(id="s", index=1))
    end = chain.next([host("c", cpu_count=3)], snapshot=Snapshot(id="s", index=2, end=True))
    await store.commit([log.deliver(first)])
    await store.commit([log.deliver(end)])
    assert current(database) == {"a": 1, "b": 2}
    # Nor when its beginning was shed.
    chain.sequence += 1
    hole = Hole(first_sequence=5, last_sequence=5, records=1, reason=HoleReason.HOLE_REASON_SHED)
    tail = chain.next([host("d", cpu_count=4)], holes=[hole], snapshot=Snapshot(id="t", index=1, end=True))
    await store.commit([log.deliver(tail)])
    assert current(database) == {"a": 1, "b": 2}
    # The next whole one does.
    whole = chain.next([host("d", cpu_count=4)], snapshot=Snapshot(id="u", end=True))
    await store.commit([log.deliver(whole)])
    assert current(database) == {"d": 4}


async def test_a_part_of_an_unfinished_snapshot_survives_a_restart(database: Path, mesh: Mesh) -> None:
    chain, log = chain_of(mesh), Log()
    async with Store(database) as store:
        first = chain.next([host("a", cpu_count=1)], snapshot=Snapshot(id="s"))
        await store.commit([log.deliver(first)])
    async with Store(database) as store:
        end = chain.next([host("b", cpu_count=2)], snapshot=Snapshot(id="s", index=1, end=True))
        await store.commit([log.deliver(end)])
    assert current(database) == {"a": 1, "b": 2}


@pytest.mark.parametrize("bound", ["_MAX_PARTS", "_MAX_BYTES"])
async def test_a_snapshot_beyond_the_bounds_is_given_up_and_not_kept(
    store: Store, database: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(inventory, bound, 3)
    chain, log = chain_of(mesh), Log()
    await store.commit([log.deliver(chain.next([host("old", cpu_count=1)]))])
    for index in range(6):
        part = chain.next([host(f"h{index}")], snapshot=Snapshot(id="s", index=index, end=index == 5))
        await store.commit([log.deliver(part)])
    assert current(database) == {"old": 1}
    assert staged(database) == 0


_NAMES = st.sampled_from("abcde")
_HOSTS = st.dictionaries(_NAMES, st.integers(1, 3), max_size=4)


@dataclass(frozen=True)
class Delta:
    """Changes. lost: it was sealed and never arrives."""

    hosts: State
    removed: frozenset[str]
    lost: bool


@dataclass(frozen=True)
class Whole:
    """A snapshot: the hosts of each part and whether it is lost; a delta that comes before one of them."""

    parts: list[tuple[State, bool]]
    between: Delta | None
    before_part: int


_DELTAS = st.builds(Delta, _HOSTS, st.frozensets(_NAMES, max_size=2), st.booleans())
_WHOLES = st.builds(
    Whole,
    st.lists(st.tuples(_HOSTS, st.sampled_from([False, False, False, True])), min_size=1, max_size=4),
    st.none() | _DELTAS,
    st.integers(1, 3),
)
_GROUPS = st.lists(st.integers(1, 4), min_size=12, max_size=12)
_PROPERTY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_PROPERTY
@given(st.lists(st.one_of(_DELTAS, _WHOLES), max_size=8), _GROUPS)
async def test_current_state_is_what_a_plain_model_says(
    mesh: Mesh, steps: list[Delta | Whole], group_sizes: list[int]
) -> None:
    """Deltas apply at once; a snapshot replaces all at its end, if every part came and no delta between."""
    state: State = {}
    chain, log = chain_of(mesh), Log()
    items: list[Item] = []

    def send(hosts: State, removed: frozenset[str], lost: bool, snapshot: Snapshot | None = None) -> None:
        batch = sealed(chain, hosts, removed, snapshot)
        if not lost:
            items.append(log.deliver(batch))

    def change(delta: Delta) -> bool:
        send(delta.hosts, delta.removed, delta.lost)
        if not delta.lost:
            state.update(delta.hosts)
            for name in delta.removed:
                state.pop(name, None)
        return not delta.lost

    for number, step in enumerate(steps):
        if isinstance(step, Delta):
            change(step)
            continue
        whole: State = {}
        holds = True
        for index, (hosts, lost) in enumerate(step.parts):
            if index == step.before_part and step.between is not None and change(step.between):
                holds = False
            place = Snapshot(id=str(number), index=index, end=index == len(step.parts) - 1)
            send(hosts, frozenset(), lost, place)
            holds = holds and not lost
            whole.update(hosts)
        if holds:
            state = whole
    assert await stored(items, group_sizes) == state


_PLACES = st.none() | st.builds(
    Snapshot, id=st.sampled_from("st"), index=st.integers(0, 2), end=st.booleans()
)
_BATCHES = st.tuples(
    _HOSTS,
    st.frozensets(_NAMES, max_size=2),
    _PLACES,
    st.sampled_from(["comes", "comes", "comes", "lost", "new epoch"]),
)


@_PROPERTY
@given(st.lists(_BATCHES, max_size=12), _GROUPS)
@example(
    # A chain that begins anew does not go on with a snapshot of the one before.
    [
        ({"a": 1}, frozenset(), Snapshot(id="s", index=0), "comes"),
        ({"b": 1}, frozenset(), Snapshot(id="s", index=1, end=True), "new epoch"),
    ],
    [1, 1],
)
async def test_the_writer_and_the_domain_make_the_same_state_of_any_batches(
    mesh: Mesh,
    batches: list[tuple[State, frozenset[str], Snapshot | None, str]],
    group_sizes: list[int],
) -> None:
    chain, log = chain_of(mesh), Log()
    items: list[Item] = []
    candidates = []
    for hosts, removed, snapshot, fate in batches:
        if fate == "new epoch":
            chain.epoch, chain.sequence, chain.previous = chain.epoch + 1, 0, b""
        batch = sealed(chain, hosts, removed, snapshot)
        if fate != "lost":
            items.append(log.deliver(batch))
            candidates.append(candidate(batch, hosts, removed))
    with TemporaryDirectory() as directory:
        async with ProductLog(Path(directory) / "log.db") as domain:
            await domain.add_schema(SCHEMAS[INVENTORY].data)
            assert await domain.append(candidates) == [None] * len(candidates)
            page = await domain.page(Query(INVENTORY, None, None, 100))
    expected = {row.key.decode(): int(row.record) for row in page.rows}
    assert await stored(items, group_sizes) == expected


def sealed(chain: Chain, hosts: State, removed: frozenset[str], snapshot: Snapshot | None) -> SealedBatch:
    records = [host(name, cpu_count=count) for name, count in hosts.items()]
    return chain.next(records, removed=[host(name) for name in sorted(removed)], snapshot=snapshot)


def candidate(batch: SealedBatch, hosts: State, removed: frozenset[str]) -> Candidate:
    """A batch as the domain's ingest hands it to the log."""
    change = Change(
        {name.encode(): str(count).encode() for name, count in hosts.items()},
        [name.encode() for name in sorted(removed)],
    )
    return Candidate(
        header_of(batch), sha256(batch.header), batch.SerializeToString(), (b"leaf", b"issuer"), change
    )


async def stored(items: Sequence[Item], group_sizes: Sequence[int]) -> State:
    """The state after a writer has committed the items in groups."""
    with TemporaryDirectory() as directory:
        database = Path(directory) / "telltale.sqlite"
        async with Store(database) as store:
            for size in (*group_sizes, len(items)):
                group, items = items[:size], items[size:]
                if group:
                    await store.commit(group)
        return current(database)

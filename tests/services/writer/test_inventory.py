import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.writer.store import Store
from telltale.api.mesh.v1.batch_pb2 import Hole, HoleReason, Snapshot
from tests.support.batches import INVENTORY, Chain, host
from tests.support.deliveries import Log
from tests.support.mesh import Mesh

State = dict[str, int]


def current(database: Path) -> State:
    connection = sqlite3.connect(database)
    try:
        return dict(connection.execute("SELECT host_name, cpu_count FROM servers_inventory").fetchall())
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
        ("DELETE", "b", 2),
        ("UPSERT", "a", 4),
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
    await store.commit(
        [log.deliver(chain.next([host("b", cpu_count=2)], snapshot=Snapshot(id="s", end=True)))]
    )
    assert current(database) == {"other": 9, "b": 2, "c": 3}


async def test_a_snapshot_that_misses_a_part_changes_nothing(
    store: Store, database: Path, mesh: Mesh
) -> None:
    chain, log = chain_of(mesh), Log()
    await store.commit([log.deliver(chain.next([host("a", cpu_count=1), host("b", cpu_count=2)]))])
    first = chain.next([host("a", cpu_count=1)], snapshot=Snapshot(id="s"))
    chain.next([host("b", cpu_count=2)], snapshot=Snapshot(id="s"))
    end = chain.next([host("c", cpu_count=3)], snapshot=Snapshot(id="s", end=True))
    await store.commit([log.deliver(first)])
    await store.commit([log.deliver(end)])
    assert current(database) == {"a": 1, "b": 2}
    # Nor when its beginning was shed.
    chain.sequence += 1
    hole = Hole(first_sequence=5, last_sequence=5, records=1, reason=HoleReason.HOLE_REASON_SHED)
    tail = chain.next([host("d", cpu_count=4)], holes=[hole], snapshot=Snapshot(id="t", end=True))
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
        end = chain.next([host("b", cpu_count=2)], snapshot=Snapshot(id="s", end=True))
        await store.commit([log.deliver(end)])
    assert current(database) == {"a": 1, "b": 2}


_HOSTS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 3), max_size=4)
_DELTA = st.tuples(st.just("delta"), _HOSTS, st.sets(st.sampled_from("abcde"), max_size=2))
_PART = st.tuples(st.sampled_from(["part", "end", "abandon"]), _HOSTS, st.just(frozenset()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(_DELTA, _PART), max_size=12), st.lists(st.integers(1, 4), min_size=12, max_size=12))
async def test_current_state_is_what_a_plain_model_says(
    mesh: Mesh, steps: list[tuple[str, State, set[str]]], group_sizes: list[int]
) -> None:
    """Deltas apply at once; a snapshot replaces all at its end, overlaid with the deltas in between."""
    state: State = {}
    building: State | None = None
    number = 0
    chain, log = chain_of(mesh), Log()
    items = []
    for kind, hosts, removed in steps:
        gone = set(removed) - set(hosts)
        snapshot = None
        if kind == "abandon":
            # A new snapshot begins: the one before is never finished.
            number += 1
            building = None
        if kind == "delta":
            for target in (state, building):
                if target is not None:
                    target.update(hosts)
                    for name in gone:
                        target.pop(name, None)
        else:
            building = {**(building or {}), **hosts}
            snapshot = Snapshot(id=str(number), end=kind == "end")
            if kind == "end":
                state, building = building, None
                number += 1
        records = [host(name, cpu_count=count) for name, count in hosts.items()]
        batch = chain.next(records, removed=[host(name) for name in sorted(gone)], snapshot=snapshot)
        items.append(log.deliver(batch))
    with TemporaryDirectory() as directory:
        database = Path(directory) / "telltale.sqlite"
        async with Store(database) as store:
            for size in group_sizes:
                group, items = items[:size], items[size:]
                await store.commit(group)
            await store.commit(items)
        if steps:
            assert current(database) == state

"""What a product may make of the database: tables, columns and schemas are bounded for each domain."""

from pathlib import Path

import pytest

from services.writer import plans
from services.writer.store import Store
from tests.services.writer.test_tables import Source, Version, ask
from tests.support.mesh import Mesh


async def test_a_domain_gets_so_many_tables_and_takes_none_from_another(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MAX_TABLES_OF_A_DOMAIN", 1)
    source = Source(mesh)
    first, second = Version(tmp_path, "", product="lab.probe"), Version(tmp_path, "", product="lab.other")
    foreign = Version(tmp_path, "", domain="yard", product="yard.probe")
    tally = await store.commit([source.deliver(one) for one in (first, second, foreign)])
    assert [refused.detail for _, refused in tally.refused] == [
        "the database has tables of 1 products of the domain lab; lab.other gets none"
    ]
    assert ask(database, "SELECT product FROM products ORDER BY product") == [("lab.probe",), ("yard.probe",)]


async def test_a_product_that_grows_by_version_after_version_gets_so_many_columns(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(mesh)
    versions = [Version(tmp_path, f"string name_{number} = {number};") for number in range(2, 6)]
    await store.commit([source.deliver(versions[0])])
    columns = len(ask(database, "SELECT name FROM pragma_table_info('lab_probe')"))
    monkeypatch.setattr(plans, "MAX_COLUMNS", columns + 1)
    tally = await store.commit([source.deliver(version) for version in versions])
    assert [refused.detail for _, refused in tally.refused] == [
        f"the table lab_probe would get more than {columns + 1} columns"
    ] * 2
    assert len(ask(database, "SELECT name FROM pragma_table_info('lab_probe')")) == columns + 1
    assert ask(database, "SELECT count(*) FROM lab_probe") == [(3,)]


async def test_a_domain_gets_so_many_columns_in_all_its_tables(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(mesh)
    await store.commit([source.deliver(Version(tmp_path, "string name = 2;"))])
    columns = len(ask(database, "SELECT name FROM pragma_table_info('lab_probe')"))
    monkeypatch.setattr(plans, "MAX_COLUMNS_OF_A_DOMAIN", columns + 1)
    wider = Version(tmp_path, "string name = 2; string more = 3; string most = 4;")
    another = Version(tmp_path, "string name = 2;", product="lab.other")
    foreign = Version(tmp_path, "", domain="yard", product="yard.probe")
    tally = await store.commit([source.deliver(one) for one in (wider, another, foreign)])
    assert [refused.detail.partition(" would ")[0] for _, refused in tally.refused] == [
        "lab.probe",
        "lab.other",
    ]
    assert f"at most {columns + 1} are made" in tally.refused[0][1].detail
    assert ask(database, "SELECT product FROM products ORDER BY product") == [("lab.probe",), ("yard.probe",)]


async def test_a_domain_gets_so_many_bytes_of_schemas_and_those_that_are_kept_stay_good(
    store: Store, database: Path, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(mesh)
    known, new = Version(tmp_path, ""), Version(tmp_path, "string name = 2;")
    monkeypatch.setattr(plans, "MAX_SCHEMA_BYTES_OF_A_DOMAIN", len(known.schema.data))
    await store.commit([source.deliver(known)])
    # Another process with the same database knows nothing of what fits.
    async with Store(database) as again:
        tally = await again.commit([source.deliver(known), source.deliver(new)])
    assert [refused.detail.partition(";")[2] for _, refused in tally.refused] == [
        f" at most {len(known.schema.data)} are kept"
    ]
    assert ask(database, "SELECT count(*) FROM lab_probe") == [(2,)]
    assert ask(database, "SELECT count(*) FROM schemas") == [(1,)]

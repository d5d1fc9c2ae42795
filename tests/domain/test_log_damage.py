"""A flipped bit or a cut file: what is damaged is never delivered as good, and the rest stays readable."""

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from telltale import salvage
from telltale.api.mesh.v1.batch_pb2 import Snapshot
from telltale.domain.inventory import Change
from telltale.domain.log import ProductLog
from telltale.errors import Damaged, Unavailable
from tests.support.log_chain import PRODUCT, SOURCE, Chain, chain_log, everything

OTHER = "servers.disk_usage"
BATCHES = 60
NEW = b"appended later"


async def made(path: Path) -> dict[int, bytes]:
    """A closed log of two products; its batches by offset, as they are delivered but for the log's id."""
    state, events = Chain(), Chain(product=OTHER)
    async with chain_log(path) as log:
        await log.append([state.next(Change({b"a": b"1"}), Snapshot(id="s", end=True))])
        for number in range(BATCHES):
            await log.append([events.next(payload=bytes([number]) * 2_500), state.next(Change({b"b": b"2"}))])
        return await everything(log, PRODUCT) | await everything(log, OTHER)


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[ProductLog]:
    """Opens a log as a service does that is started again when it ends over damage."""
    for _ in range(3):
        try:
            async with chain_log(path) as log:
                for product in (PRODUCT, OTHER):
                    await everything(log, product)
                await log.heads(SOURCE)
                await log.append([Chain().next(payload=NEW)])
                yield log
                return
        except Damaged:
            salvage.mark(path)
    raise AssertionError("the log was not recovered")


def flip(path: Path, place: int, bit: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


async def test_a_flipped_bit_in_a_batch_is_told_and_the_rest_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    whole = await made(path)
    flip(path, path.read_bytes().index(bytes([7]) * 500), 3)
    (damaged,) = [offset for offset, batch in whole.items() if bytes([7]) * 500 in batch]
    async with chain_log(path) as log:
        before = await log.look(OTHER, 0, 1 << 30)
        assert [entry.offset for entry in before.entries] == [
            offset for offset in whole if offset < damaged and offset % 2 == damaged % 2
        ]
        found = await log.look(OTHER, before.entries[-1].offset, 1 << 30)
        assert (list(found.damaged), list(found.entries)) == ([damaged], [])
        after = await log.look(OTHER, damaged, 1 << 30)
        assert len(before.entries) + len(after.entries) == BATCHES - 1
        assert len(await log.after(PRODUCT, 0, 1 << 30)) == BATCHES + 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("source", "'x'"),
        ("epoch", "7"),
        ("sequence", "CAST(sequence + 1000 AS INTEGER)"),
        ("header_sha256", "x'00'"),
        ("signer", "'x'"),
        ("received_ms", "received_ms + 1"),
        ("checksum", "checksum + 1"),
    ],
)
async def test_whatever_a_row_says_is_under_its_checksum(tmp_path: Path, column: str, value: str) -> None:
    path = tmp_path / "log.db"
    await made(path)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE batches SET {column} = {value} WHERE offset = 2")
    async with chain_log(path) as log:
        assert list((await log.look(OTHER, 0, 1 << 20)).damaged) == [2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE signers SET certificates = replace(certificates, '[', 'Z')",
        "UPDATE signers SET certificates = CAST(x'5b22ff225d' AS TEXT)",
        "UPDATE signers SET certificates = '{\"a\": 1}'",
        "UPDATE signers SET certificates = '[]'",
        "UPDATE signers SET sha256 = 'another'",
        "UPDATE certificates SET der = x'00'",
        "DELETE FROM certificates WHERE der = CAST('issuer' AS BLOB)",
    ],
)
async def test_batches_whose_signer_does_not_hold_are_damaged_until_its_next_batch_mends_it(
    tmp_path: Path, statement: str
) -> None:
    path = tmp_path / "log.db"
    chain = Chain(product=OTHER)
    async with chain_log(path) as log:
        await log.append([chain.next(), chain.next()])
        entries = await log.after(OTHER, 0, 1 << 20)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement).rowcount
    async with chain_log(path) as log:
        assert list((await log.look(OTHER, 0, 1 << 20)).damaged) == [1, 2]
        assert await log.certificates_of(entries[0].signer) == ()
        await log.append([chain.next()])
        assert await log.certificates_of(entries[0].signer) == chain.signer
    async with chain_log(path) as log:
        assert [one.offset for one in await log.after(OTHER, 0, 1 << 20)] == [1, 2, 3]


async def test_batches_of_other_signers_stay_readable_around_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    chain = Chain(product=OTHER)
    async with chain_log(path) as log:
        for name in (b"first", b"second", b"third"):
            chain.signer = (name, b"issuer")
            await log.append([chain.next()])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        assert db.execute("UPDATE certificates SET der = x'00' WHERE der = CAST('second' AS BLOB)").rowcount
    async with chain_log(path) as log:
        assert [one.offset for one in (await log.look(OTHER, 0, 1 << 20)).entries] == [1]
        assert list((await log.look(OTHER, 1, 1 << 20)).damaged) == [2]
        assert [one.offset for one in await log.after(OTHER, 0, 1 << 20)] == [1]
        assert [one.offset for one in await log.after(OTHER, 2, 1 << 20)] == [3]


async def test_wherever_a_bit_flips_nothing_damaged_is_delivered_and_most_is_readable(tmp_path: Path) -> None:
    whole = await made(tmp_path / "whole.db")
    size, chance = (tmp_path / "whole.db").stat().st_size, random.Random(11)
    for number in range(60):
        directory = tmp_path / str(number)
        directory.mkdir()
        path = directory / "log.db"
        shutil.copy(tmp_path / "whole.db", path)
        shutil.copy(tmp_path / "whole.seen", directory / "log.seen")
        # Pages of the structure are few: half of the flips go to the beginnings of pages, where it is.
        place = chance.randrange(size)
        if number % 2:
            place = place // 8192 * 8192 + chance.randrange(16)
        flip(path, place, chance.randrange(8))
        async with opened(path) as log:
            delivered = await everything(log, PRODUCT) | await everything(log, OTHER)
            delivered = {offset: batch for offset, batch in delivered.items() if NEW not in batch}
            assert all(whole[offset] == batch for offset, batch in delivered.items()), place
            # A page of SQLite's holds a handful of batches.
            assert len(delivered) >= len(whole) - 12, (place, len(delivered), len(whole))
        shutil.rmtree(directory)


async def test_a_cut_file_is_recovered_as_another_log_and_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    whole = await made(path)
    async with chain_log(path) as log:
        known = log.id
    size = path.stat().st_size
    os.truncate(path, size * 3 // 4)
    async with opened(path) as log:
        assert log.id != known
        left = await everything(log, PRODUCT) | await everything(log, OTHER)
        assert len(left) > len(whole) // 2
    assert (tmp_path / "log.db.damaged").stat().st_size == size * 3 // 4


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"no database at all" * 1_000])
async def test_a_file_of_which_nothing_is_left_gives_an_empty_log(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.db"
    await made(path)
    path.write_bytes(content)
    async with opened(path) as log:
        assert await log.after(OTHER, 0, 1 << 30) == []


async def test_a_chain_goes_on_behind_what_was_recovered(tmp_path: Path) -> None:
    path, chain = tmp_path / "log.db", Chain(product=OTHER)
    async with chain_log(path) as log:
        await log.append([chain.next() for _ in range(5)])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM chains")
    salvage.mark(path)
    async with chain_log(path) as log:
        (head,) = await log.heads(SOURCE)
        assert (head.sequence, head.header_sha256) == (5, chain.previous)
        assert await log.append([chain.next()]) == [None]
        assert len(await log.after(OTHER, 0, 1 << 20)) == 6
        assert await log.bytes() > 6 * 50


async def test_a_recovery_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    whole = await made(path)
    flip(path, 100, 0)  # the kind of the first page
    for last in (".recovered", ".db"):
        monkeypatch.setattr(salvage.os, "replace", ends_before(last))
        salvage.mark(path)
        with pytest.raises(Unavailable, match="could not be recovered"):
            async with chain_log(path):
                pass
    monkeypatch.undo()
    async with opened(path) as log:
        assert set(whole) >= {entry.offset for entry in await log.after(OTHER, 0, 1 << 30)}
    left = {name.partition(".db.")[2] for name in os.listdir(tmp_path)}
    assert left & {"malformed", "recovering", "recovered"} == set()


def ends_before(last: str) -> Callable[[Path, Path], None]:
    """os.replace of a process that ends before it has put something into this place."""

    def replace(source: Path, target: Path, put: Callable[[Path, Path], None] = os.replace) -> None:
        if target.suffix == last:
            raise OSError("killed")
        put(source, target)

    return replace

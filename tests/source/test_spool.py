"""What the spool took survives anything; what it could not take is declared."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from telltale import salvage
from telltale.api.mesh.v1.batch_pb2 import Header, HoleReason, Loss, LossReason, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import ChainHead, Refusal, RefusalReason
from telltale.errors import Damaged
from telltale.seal.sealing import sha256
from telltale.source.drafts import Draft, Sealed
from telltale.source.keeping import SpoolFull
from telltale.source.spool import Spool

PRODUCT = "servers.disk_usage"


def sealer(size: int = 100, records: int = 1):  # type: ignore[no-untyped-def]
    def seal(draft: Draft) -> Sealed:
        header = Header(
            product=PRODUCT,
            epoch=draft.epoch,
            sequence=draft.sequence,
            previous_header_sha256=draft.previous_header_sha256,
            holes=draft.holes,
            losses=draft.losses,
            record_count=records,
        )
        batch = SealedBatch(header=header.SerializeToString(), payload=b"x" * size)
        return Sealed(batch, records, (b"leaf", b"issuer"))

    return seal


def reseal(draft: Draft, batch: SealedBatch) -> Sealed:
    return sealer(len(batch.payload))(draft)


async def headers(spool: Spool) -> list[Header]:
    spooled = await spool.after(0, 1 << 30, 10_000)
    return [Header.FromString(SealedBatch.FromString(one.batch).header) for one in spooled]


async def test_a_chain_goes_on_after_a_restart_and_after_acks(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 7, [sealer(), sealer()], sheddable=True)
        first, second = await spool.after(0, 1 << 20, 10)
        assert second.certificates == (b"leaf", b"issuer")
        await spool.forget([first.id, second.id])
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 999, [sealer()], sheddable=True)
        (third,) = await headers(spool)
    assert (third.epoch, third.sequence) == (7, 3)
    assert third.previous_header_sha256 == sha256(SealedBatch.FromString(second.batch).header)


async def test_a_full_spool_sheds_the_oldest_samples_and_declares_the_hole(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool.db", 4_000) as spool:
        for _ in range(12):
            await spool.append(PRODUCT, 1, [sealer(500, records=3)], sheddable=True)
        left = await headers(spool)
        usage = await spool.usage()
    assert usage.bytes <= 4_000
    declared = {hole.first_sequence: hole for header in left for hole in header.holes}
    assert left[0].sequence > 1
    assert all(hole.reason == HoleReason.HOLE_REASON_SHED for hole in declared.values())
    assert all(
        hole.records == 3 * (hole.last_sequence - hole.first_sequence + 1) for hole in declared.values()
    )
    covered = {n for hole in declared.values() for n in range(hole.first_sequence, hole.last_sequence + 1)}
    # The newest hole waits for the next batch; everything before it is declared.
    assert set(range(1, left[0].sequence)) - covered <= {left[0].sequence - 1}


async def test_what_may_not_be_shed_is_refused_whole(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool.db", 2_000) as spool:
        await spool.append(PRODUCT, 1, [sealer(500)], sheddable=False)
        with pytest.raises(SpoolFull):
            await spool.append(PRODUCT, 1, [sealer(500), sealer(500), sealer(500)], sheddable=False)
        assert [header.sequence for header in await headers(spool)] == [1]
        await spool.append(PRODUCT, 1, [sealer(10)], sheddable=False)
        assert [header.sequence for header in await headers(spool)] == [1, 2]


async def test_a_damaged_batch_is_never_sent_and_declared_as_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    async with Spool(path, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer(300, records=2)] * 3, sheddable=False)
        flip(path, "UPDATE batches SET batch = zeroblob(length(batch)) WHERE sequence = 2")
        sent = await spool.take(0, 1 << 20, 10)
        assert [one.sequence for one in sent] == [1, 3]
        await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
        (hole,) = (await headers(spool))[-1].holes
        assert (hole.first_sequence, hole.last_sequence, hole.records) == (2, 2, 2)
        assert hole.reason == HoleReason.HOLE_REASON_DAMAGED
        assert (await spool.usage()).bytes == sum(
            len(one.batch) + 256 for one in await spool.after(0, 1 << 20, 9)
        )


@pytest.mark.parametrize(
    "change",
    [
        "product = product || 'x'",
        "product = CAST(CAST(product AS BLOB) || x'ff' AS TEXT)",
        "epoch = epoch + 4096",
        "sequence = sequence + 4096",
        "records = records + 4096",
        "sheddable = 1 - sheddable",
        "certificates = replace(certificates, '[', 'Z')",
        "certificates = CAST(CAST(certificates AS BLOB) || x'ff' AS TEXT)",
        "certificates = replace(certificates, 'a', 'b')",
        "checksum = checksum + 1",
    ],
)
async def test_whatever_a_row_of_the_spool_says_is_under_its_checksum(tmp_path: Path, change: str) -> None:
    path = tmp_path / "spool.db"
    async with Spool(path, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer(records=2)] * 3, sheddable=False)
    flip(path, f"UPDATE batches SET {change} WHERE sequence = 2")
    async with Spool(path, 1 << 20) as spool:
        assert [one.sequence for one in await spool.take(0, 1 << 20, 10)] == [1, 3]
        await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
        (hole,) = (await headers(spool))[-1].holes
        assert (hole.first_sequence, hole.last_sequence) == (2, 2)
        # Of the number itself the batch knows nothing but what its header says.
        assert hole.records == 2
        assert hole.reason == HoleReason.HOLE_REASON_DAMAGED


async def test_a_batch_whose_signer_is_damaged_is_a_hole_and_the_next_has_its_signer_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool.db"
    async with Spool(path, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer(records=2)], sheddable=False)
    flip(path, "UPDATE certificates SET der = x'00' WHERE der = CAST('issuer' AS BLOB)")
    async with Spool(path, 1 << 20) as spool:
        assert await spool.take(0, 1 << 20, 10) == []
        await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
        (one,) = await spool.take(0, 1 << 20, 10)
        assert one.certificates == (b"leaf", b"issuer")
        (hole,) = (await headers(spool))[0].holes
        assert (hole.first_sequence, hole.records, hole.reason) == (1, 2, HoleReason.HOLE_REASON_DAMAGED)


async def test_a_spool_whose_checksums_are_over_the_batch_alone_is_sent_and_still_checked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool.db"
    async with Spool(path, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer()] * 3, sheddable=False)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.create_function("crc32", 1, zlib.crc32)
        db.execute("UPDATE batches SET checksum = crc32(batch)")
        db.execute("UPDATE batches SET batch = zeroblob(length(batch)) WHERE sequence = 2")
    async with Spool(path, 1 << 20) as spool:
        assert [one.sequence for one in await spool.take(0, 1 << 20, 10)] == [1, 3]


async def test_wherever_a_bit_of_a_spool_flips_what_is_sent_is_what_was_kept(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    async with Spool(whole, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer(500, records=2)] * 20, sheddable=False)
        kept = {one.sequence: one for one in await spool.after(0, 1 << 20, 100)}
    chance = random.Random(3)
    sent = 0
    for number in range(80):
        path = tmp_path / str(number) / "spool.db"
        path.parent.mkdir()
        content = bytearray(whole.read_bytes())
        place = chance.randrange(len(content))
        if number % 2:
            # Half of the flips go to the beginnings of pages, where the structure is.
            place = place // 4096 * 4096 + chance.randrange(128)
        content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        # As an agent that ends over it, and is started again.
        for _ in range(3):
            try:
                async with Spool(path, 1 << 20) as spool:
                    taken = await spool.take(0, 1 << 20, 100)
                    await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
                    break
            except Damaged:
                salvage.mark(path)
        else:
            pytest.fail(f"a flip at {place} is never got over")
        assert all(kept[one.sequence] == one for one in taken if one.id <= 20)
        sent += len(taken)
    assert sent > 80 * 20 * 3 // 4


async def test_a_damaged_batch_stops_no_chain_from_beginning_anew(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    async with Spool(path, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer(300, records=2)] * 3, sheddable=False)
        flip(path, "UPDATE batches SET batch = zeroblob(length(batch)) WHERE sequence = 1")
        assert await spool.rechain([ChainHead(product=PRODUCT, epoch=5, sequence=9)], 2, reseal) == [PRODUCT]
        assert [(one.epoch, one.sequence) for one in await headers(spool)] == [(6, 1), (6, 2)]
        await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
        assert sum(loss.records for loss in (await headers(spool))[-1].losses) == 2


async def test_a_recovered_spool_whose_chain_claims_quintillions_declares_them_as_one_hole(
    tmp_path: Path,
) -> None:
    path = tmp_path / "spool.db"
    async with Spool(path, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer()] * 5, sheddable=False)
    flip(path, "DELETE FROM batches WHERE sequence IN (2, 3)")
    flip(path, "UPDATE chains SET sequence = sequence | (1 << 61)")
    salvage.mark(path)
    async with Spool(path, 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
        last = (await headers(spool))[-1]
        claimed = 5 | 1 << 61
        holes = [(hole.first_sequence, hole.last_sequence) for hole in last.holes]
        assert holes == [(2, 3), (6, claimed)] and last.sequence == claimed + 1


async def test_a_malformed_spool_is_recovered_and_declares_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    async with Spool(path, 1 << 24) as spool:
        for _ in range(40):
            await spool.append(PRODUCT, 1, [sealer(3_000)], sheddable=False)
    cut(path)
    # As an agent that ends over it, or begins with it.
    with contextlib.suppress(Damaged):
        async with Spool(path, 1 << 24) as spool:
            await spool.after(0, 1 << 30, 100)
            path.with_name("spool.db.malformed").touch()
    async with Spool(path, 1 << 24) as spool:
        left = [header.sequence for header in await headers(spool)]
        assert 10 < len(left) < 40 and left == sorted(set(left))
        await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
        last = (await headers(spool))[-1]
        assert last.sequence == 41 or last.epoch > 1
        assert {loss.reason for loss in last.losses} == {LossReason.LOSS_REASON_FAILURE}
        assert sum(loss.records for loss in last.losses) in (0, 40 - len(left))
        declared = {n for hole in last.holes for n in range(hole.first_sequence, hole.last_sequence + 1)}
        assert set(range(min(left), 41)) - set(left) == declared


def flip(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 3 // 4)


async def test_losses_wait_for_the_next_batch_and_add_up(tmp_path: Path) -> None:
    loss = Loss(records=2, reason=LossReason.LOSS_REASON_BOUND, detail="full")
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.lose(PRODUCT, loss)
        await spool.lose(PRODUCT, loss)
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer(), sealer()], sheddable=True)
        first, second = await headers(spool)
    assert [one.records for one in first.losses] == [4]
    assert not second.losses


async def test_a_refused_batch_becomes_a_hole(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 1, [sealer(records=5)], sheddable=False)
        (spooled,) = await spool.after(0, 1 << 20, 10)
        await spool.refuse(spooled, Refusal(reason=RefusalReason.REFUSAL_REASON_MALFORMED, detail="bad"))
        await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
        (header,) = await headers(spool)
    (hole,) = header.holes
    assert (hole.first_sequence, hole.last_sequence, hole.records) == (1, 1, 5)
    assert hole.reason == HoleReason.HOLE_REASON_REFUSED


async def test_a_spool_behind_its_domain_starts_a_higher_epoch(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 5, [sealer(), sealer()], sheddable=True)
        ahead = ChainHead(product=PRODUCT, epoch=9, sequence=4)
        assert await spool.rechain([ahead], 7, reseal) == [PRODUCT]
        first, second = await headers(spool)
        assert [(one.epoch, one.sequence) for one in (first, second)] == [(10, 1), (10, 2)]
        assert second.previous_header_sha256 == sha256(first.SerializeToString())
        # What the domain knows is now behind: nothing is to be done.
        assert await spool.rechain([ahead], 7, reseal) == []


async def test_a_restored_spool_that_collected_before_it_asked_starts_a_higher_epoch(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 5, [sealer(), sealer(), sealer()], sheddable=True)
        first, second, third = await headers(spool)
        for sequence, mine in ((1, first), (2, second), (3, third)):
            same = sha256(mine.SerializeToString())
            known = ChainHead(product=PRODUCT, epoch=5, sequence=sequence, header_sha256=same)
            assert await spool.rechain([known], 7, reseal) == []
        for epoch, sequence in ((5, 2), (7, 3)):
            other = ChainHead(product=PRODUCT, epoch=epoch, sequence=sequence, header_sha256=b"other")
            assert await spool.rechain([other], 7, reseal) == [PRODUCT]
            begun = max(7, epoch + 1)
            assert [(one.epoch, one.sequence) for one in await headers(spool)] == [
                (begun, number) for number in (1, 2, 3)
            ]


async def test_a_chain_that_a_clock_years_ahead_began_comes_down_to_what_the_domain_knows(
    tmp_path: Path,
) -> None:
    now, year = 1_800_000_000_000, 31_536_000_000
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, now + year, [sealer(), sealer()], sheddable=True)
        await spool.renew(PRODUCT, now, now + 5_000, reseal)
        assert [one.epoch for one in await headers(spool)] == [now + 5_001] * 2
        # A domain may have taken this one: never below it.
        await spool.renew(PRODUCT, now, 0, reseal)
        assert [(one.epoch, one.sequence) for one in await headers(spool)] == [
            (now + 5_002, 1),
            (now + 5_002, 2),
        ]


CRASHER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from telltale.source.spool import Spool
from tests.source.test_spool import PRODUCT, sealer

async def main():
    async with Spool(Path({path!r}), 1 << 30) as spool:
        while True:
            _, _ = await spool.append(PRODUCT, 1, [sealer()], sheddable=False)
            print("kept", flush=True)

asyncio.run(main())
"""


def kill_in_the_middle(path: Path) -> int:
    """Kills a process that appends to a spool; returns how many appends it had been told of."""
    root = str(Path(__file__).parents[2])
    script = CRASHER.format(root=root, path=str(path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(40):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        return 40 + sum(1 for line in child.stdout if line == "kept\n")


async def test_an_appended_batch_survives_kill_nine(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    kept = await asyncio.to_thread(kill_in_the_middle, path)
    async with Spool(path, 1 << 30) as spool:
        left = await headers(spool)
    assert len(left) >= kept
    assert [header.sequence for header in left] == list(range(1, len(left) + 1))


async def test_what_was_sealed_with_an_ended_certificate_is_sealed_again_in_its_place(tmp_path: Path) -> None:
    def late(draft: Draft) -> Sealed:
        return replace(sealer()(draft), late=True)

    def again(draft: Draft, batch: SealedBatch) -> Sealed:
        return replace(sealer(300)(draft), certificates=(b"new leaf", b"issuer"))

    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 7, [sealer(), sealer()], sheddable=True)
        await spool.append(PRODUCT, 7, [late, late], sheddable=True)
        await spool.append(PRODUCT, 7, [sealer()], sheddable=True)
        before = await spool.after(0, 1 << 20, 10)
        assert await spool.reseal_late([], 7, again) == [PRODUCT]
        after = await spool.after(0, 1 << 20, 10)
        assert [one.id for one in after] == [one.id for one in before]
        assert after[:2] == before[:2]
        assert {one.certificates for one in after[2:]} == {(b"new leaf", b"issuer")}
        assert await spool.reseal_late([], 7, again) == []
        usage = await spool.usage()
        # The chain goes on: nobody can tell.
        await spool.append(PRODUCT, 99, [sealer()], sheddable=True)
        chain = await spool.after(0, 1 << 20, 10)
    made = [SealedBatch.FromString(one.batch) for one in chain]
    parsed = [Header.FromString(batch.header) for batch in made]
    assert [(header.epoch, header.sequence) for header in parsed] == [(7, n) for n in range(1, 7)]
    for earlier, header in zip(made, parsed[1:], strict=False):
        assert header.previous_header_sha256 == sha256(earlier.header)
    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        assert (await spool.usage()).bytes > usage.bytes


async def test_holes_that_a_late_batch_declares_are_declared_when_it_is_sealed_again(tmp_path: Path) -> None:
    def late(draft: Draft) -> Sealed:
        return replace(sealer()(draft), late=True)

    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 7, [sealer()], sheddable=True)
        (first,) = await spool.after(0, 1 << 20, 10)
        refusal = Refusal(product=PRODUCT, epoch=7, sequence=1, reason=RefusalReason.REFUSAL_REASON_SIGNATURE)
        await spool.refuse(first, refusal)
        await spool.append(PRODUCT, 7, [late], sheddable=True)
        await spool.reseal_late([], 7, reseal)
        (header,) = await headers(spool)
    assert [(hole.first_sequence, hole.last_sequence) for hole in header.holes] == [(1, 1)]


async def test_certificates_of_batches_that_have_gone_do_not_pile_up(tmp_path: Path) -> None:
    def signed(number: int):  # type: ignore[no-untyped-def]
        return lambda draft: replace(sealer()(draft), certificates=(b"leaf %d" % number, b"issuer"))

    async with Spool(tmp_path / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 7, [signed(0)], sheddable=True)
        (kept,) = await spool.after(0, 1 << 20, 10)
        for number in range(1, 200):
            await spool.append(PRODUCT, 7, [signed(number)], sheddable=True)
            await spool.forget([one.id for one in await spool.after(kept.id, 1 << 20, 10)])
        assert (await spool.after(0, 1 << 20, 10))[0].certificates == (b"leaf 0", b"issuer")
    connection = sqlite3.connect(tmp_path / "spool.db")
    (count,) = connection.execute("SELECT count(*) FROM certificates").fetchone()
    connection.close()
    assert count <= 70

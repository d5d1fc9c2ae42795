"""A spool can be looked into while it is in use: what waits, what is missing, what was refused."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from telltale.api.mesh.v1.batch_pb2 import Loss, LossReason, SealedBatch
from telltale.api.mesh.v1.ingest_pb2 import Refusal, RefusalReason
from telltale.cli import main as command
from telltale.source.drafts import Draft, Sealed
from telltale.source.spool import Spool
from tests.support.batches import Chain, disk_usage, header_of
from tests.support.mesh import Mesh

PRODUCT = "servers.disk_usage"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        command.main(["spool", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


async def test_what_waits_is_missing_and_was_refused_is_shown_beside_its_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    credentials = Mesh.create(tmp_path / "mesh", "servers").credentials("servers", "/agent/web1")
    chain = Chain(credentials, epoch=7)

    def seal(draft: Draft) -> Sealed:
        return Sealed(chain.next([disk_usage("/"), disk_usage("/home")]), 2, credentials.certificates)

    async with Spool(tmp_path / "state" / "spool.db", 1 << 20) as spool:
        await spool.append(PRODUCT, 7, [seal, seal, seal], sheddable=True)
        first, second, third = await spool.after(0, 1 << 20, 10)
        await spool.forget([first.id])
        refusal = Refusal(reason=RefusalReason.REFUSAL_REASON_TOO_LARGE, detail="the batch has 2 records")
        await spool.refuse(second, refusal)
        lost = Loss(records=9, reason=LossReason.LOSS_REASON_FAILURE, detail="the disk hung")
        await spool.lose(PRODUCT, lost)
        code, out, _ = run(capsys, str(tmp_path / "state"), "--json")
        assert code == 0
        (shown,) = json.loads(out)
        (waits,) = shown["chains"]
        sealed = header_of(SealedBatch.FromString(third.batch)).sealed_time.ToDatetime(UTC)
        assert waits | {"bytes": 0} == {
            "product": PRODUCT,
            "epoch": 7,
            "sequence": 3,
            "batches": 1,
            "records": 2,
            "bytes": 0,
            "oldest": sealed.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        assert waits["bytes"] > len(third.batch)
        hole, loss = shown["missing"]
        assert (hole["reason"], hole["first_sequence"], hole["last_sequence"]) == ("refused", 2, 2)
        assert (loss["reason"], loss["records"], loss["detail"]) == ("failure", 9, "the disk hung")
        (refused,) = shown["refused"]
        assert (refused["sequence"], refused["reason"]) == (2, "too_large")
        assert datetime.fromisoformat(refused["time"]).tzinfo is not None
        code, out, _ = run(capsys, str(tmp_path / "state" / "spool.db"))
        assert code == 0
        for said in ("1 batches wait", "Missing, to be declared", "Refused by the domain", "the disk hung"):
            assert said in out


async def test_a_new_spool_has_sealed_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with Spool(tmp_path / "telemetry.db", 1 << 20):
        code, out, _ = run(capsys, str(tmp_path))
    assert code == 0
    assert "0 batches wait to be acked" in out and "Nothing was sealed yet." in out


@pytest.mark.parametrize("kind", ["empty directory", "nothing", "another file"])
def test_what_is_no_spool_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    place = tmp_path / "place"
    if kind == "empty directory":
        place.mkdir()
    elif kind == "another file":
        place.write_text("no database\n" * 100)
    code, out, err = run(capsys, str(place))
    assert (code, out) == (1, "")
    assert err.startswith("telltale: ") and str(place) in err and err.count("\n") == 1

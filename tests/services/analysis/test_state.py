"""The state is what was committed, or it is not gone on with."""

import random
import shutil
from pathlib import Path

import duckdb

from services.analysis.state import State
from telltale.errors import TelltaleError

POSITIONS = {(f"servers.product_{number}", "log"): number * 7_919 for number in range(200)}


def test_a_damaged_state_is_never_gone_on_with(tmp_path: Path) -> None:
    with State(tmp_path / "whole.duckdb") as state, state.transaction():
        state.move(POSITIONS)
    whole, chance, refused = (tmp_path / "whole.duckdb").read_bytes(), random.Random(3), 0
    for number in range(20):
        path = tmp_path / f"{number}.duckdb"
        shutil.copy(tmp_path / "whole.duckdb", path)
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            with State(path) as state:
                found = {(one.product, one.log): one.offset for one in state.cursor().positions}
        except (TelltaleError, duckdb.Error):
            refused += 1
        else:
            # The flip lay where nothing is.
            assert found == POSITIONS
        path.unlink(missing_ok=True)
    assert refused

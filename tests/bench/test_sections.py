"""Sections of the benchmarks run on the real processes and say what they measured; none is judged."""

import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bench import fleets, flows, latency, limit
from bench.__main__ import SECTIONS, run
from bench.counters import Counters
from bench.report import Figure, Section, show, write

_MOMENT = 0.5
# Of a size that a machine busy with other tests has room for, and of each kind of load one: the rest of the
# sections are made of the same parts, and each would start a mesh of its own.
TINY: dict[str, Callable[[], Awaitable[Section]]] = {
    "limit": lambda: limit.measure(_MOMENT),
    "latency": lambda: latency.measure(_MOMENT, full=5_000, cases={"columns": (10,)}),
    "fleets": lambda: fleets.measure(_MOMENT, sizes=(1, 3), every=0.2),
    "flows": lambda: flows.measure(_MOMENT),
}


@pytest.mark.parametrize("name", TINY)
async def test_a_section_measures_the_real_processes_and_is_written_as_json(
    name: str, tmp_path: Path
) -> None:
    section = await TINY[name]()
    show(section)
    write(tmp_path / "bench.json", [section])
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["machine"]["cores"] >= 1
    (written,) = document["sections"]
    assert written["name"] == name
    assert written["method"]
    assert written["figures"] or written["absent"]
    for figure in written["figures"]:
        assert figure["name"]
        assert figure["unit"]
        assert figure["value"] is None or math.isfinite(figure["value"])
    names = [figure["name"] for figure in written["figures"]]
    assert len(names) == len(set(names))


async def test_a_section_that_fails_says_so_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(seconds: float) -> Section:
        raise RuntimeError("servers died: the disk is full")

    async def goes_on(seconds: float) -> Section:
        return Section("limit", "By hand.", [Figure("one", 1.0, "s")])

    monkeypatch.setitem(SECTIONS, "rotel", fails)
    monkeypatch.setitem(SECTIONS, "limit", goes_on)
    path = tmp_path / "bench.json"
    assert await run(["rotel", "limit"], _MOMENT, path) == ["rotel"]
    first, second = json.loads(path.read_text())["sections"]
    assert first["absent"] == ["rotel: RuntimeError: servers died: the disk is full"]
    assert second["figures"]


def test_a_percentile_is_off_by_a_bucket_at_most(tmp_path: Path) -> None:
    with Counters(tmp_path / "counters") as counters:
        for milliseconds in range(1, 1001):
            counters.took(milliseconds / 1000)
        reading = counters.read()
    assert reading.percentile(0.5) == pytest.approx(0.5, rel=0.06)
    assert reading.percentile(0.99) == pytest.approx(0.99, rel=0.06)


def test_what_was_counted_before_a_window_does_not_count_in_it(tmp_path: Path) -> None:
    with Counters(tmp_path / "counters") as counters:
        counters.count(records=10, size=850)
        counters.took(5.0)
        before = counters.read()
        counters.count(records=3, size=255)
        counters.took(0.001)
        window = counters.read().since(before)
    assert (window.records, window.batches, window.bytes) == (3, 1, 255)
    assert window.percentile(0.99) == pytest.approx(0.001, rel=0.06)

"""docs/promises.md keeps its word: each promise names the tests that prove it, and they are there."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "promises.md").read_text()
HOPS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
QUESTIONS = (
    "an ack means",
    "the duplicate key",
    "the order",
    "its disk is full",
    "kill -9 or a power cut",
    "a flipped bit",
)


def rows(text: str) -> list[tuple[str, str, str]]:
    """What is asked, the answer, and the cell of its tests, of each row of the tables in a text."""
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return [row for row in found if row[2] != "test"]


def functions() -> set[str]:
    known = set()
    for file in TESTS.rglob("test_*.py"):
        tree = ast.parse(file.read_text())
        known |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return known


def test_the_page_has_promises() -> None:
    assert len(rows(PAGE)) >= 30


@pytest.mark.parametrize("row", rows(PAGE), ids=lambda row: row[0][:40])
def test_each_promise_names_tests_that_are_there(row: tuple[str, str, str]) -> None:
    _, answer, proof = row
    assert answer.strip()
    assert re.fullmatch(r"`test_\w+`(, `test_\w+`)*", proof), f"name the tests of {row}"
    assert set(re.findall(r"test_\w+", proof)) <= functions()


@pytest.mark.parametrize("hop", [hop for hop in HOPS if "→" in hop.splitlines()[0]], ids=lambda hop: hop[:30])
def test_each_hop_answers_the_same_questions(hop: str) -> None:
    assert [row[0] for row in rows(hop)] == list(QUESTIONS)

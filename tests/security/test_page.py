"""docs/security.md and these tests say the same: no claim without a test, and no test without its claim."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "security.md").read_text()
FILES = sorted(path for path in HERE.glob("test_*.py") if path != Path(__file__))
# What is behind a line such as `Tests: [test_gateway.py](../tests/security/test_gateway.py)`.
LINK = re.compile(r"\]\(\.\./tests/security/(test_\w+\.py)\)")


def functions(file: Path) -> set[str]:
    """The tests of a file."""
    tree = ast.parse(file.read_text())
    found = (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for name in found if name.startswith("test_")}


def sections() -> list[str]:
    return re.split(r"^#+ ", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_section_of_a_file_names_its_tests(file: Path) -> None:
    texts = [text for text in sections() if file.name in LINK.findall(text)]
    assert texts, f"no section of docs/security.md links to tests/security/{file.name}"
    named = {name for text in texts for name in re.findall(r"`(test_\w+)`", text)}
    assert functions(file) <= named, f"say on docs/security.md what nobody can: {functions(file) - named}"


def test_every_test_that_the_page_names_is_there() -> None:
    known = set().union(*(functions(file) for file in HERE.parent.rglob("test_*.py")))
    assert set(re.findall(r"`(test_\w+)`", PAGE)) <= known


def test_every_cannot_has_its_test() -> None:
    tables = re.findall(r"^\| .*\b(?:cannot|can) \| test \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert len(tables) == PAGE.count("| test |") >= 12
    for row in "".join(tables).splitlines():
        assert re.fullmatch(r"\| .+ \| `test_\w+`(, `test_\w+`)* \|", row), row

"""`telltale product new` writes files that pass everything that the house's own files pass."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from telltale.cli.scaffold import declare, new_product, next_steps
from telltale.contract.image import Image
from telltale.contract.product import contracts_in
from telltale.errors import ConfigurationError, InvalidInput, Precondition

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the scaffold and the checks of its files need."""
    kept = shutil.ignore_patterns("__pycache__", "*.pyc")
    for part in ("protos", "telltale", "agent", "tools"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=kept)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(tree: Path, *command: str, cwd: str = ".") -> None:
    done = subprocess.run(
        command, cwd=tree / cwd, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_new_products_pass_lint_types_and_their_own_tests(tree: Path) -> None:
    products = {"servers.aaa_first": "samples", "servers.zz9_last": "events", "storage.formats": "inventory"}
    written = [path for product, kind in products.items() for path in new_product(product, kind, tree)]
    run(tree, str(BIN / "buf"), "lint", cwd="protos")
    run(tree, str(BIN / "buf"), "format", "--diff", "--exit-code", cwd="protos")
    run(tree, str(BIN / "python"), "-m", "tools.protos")
    python = sorted({str(path) for path in written if path.suffix == ".py"})
    run(tree, str(BIN / "ruff"), "check", "--no-cache", *python)
    run(tree, str(BIN / "ruff"), "format", "--no-cache", "--check", *python)
    run(tree, str(BIN / "mypy"), "--no-incremental", *[path for path in python if path.startswith("agent")])
    tests = [path for path in python if path.startswith("tests")]
    run(tree, str(BIN / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    images = [
        tree / "telltale" / "api" / domain / "v1" / "descriptors.binpb" for domain in ("servers", "storage")
    ]
    names = {contract.name for contract in contracts_in(Image.load(*images))}
    assert set(products) <= names
    with pytest.raises(Precondition, match="is there already"):
        new_product("servers.zz9_last", "samples", tree)


def test_the_owner_is_the_one_of_the_domains_other_products(tree: Path) -> None:
    path = new_product("servers.fans", "samples", tree)[0]
    assert 'owner: "server-management"' in (tree / path).read_text()


@pytest.mark.parametrize(
    "name", ["fans", "servers.", "servers.Fans", "servers.fans.x", "../x.y", "servers.class", "servers.a__b"]
)
def test_bad_names_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos" / "buf.yaml").touch()
    with pytest.raises(InvalidInput):
        new_product(name, "samples", tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["buf.yaml"]


def test_the_mesh_itself_has_no_collectors(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="processes"):
        new_product("mesh.fans", "samples", tmp_path)


def test_another_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no working tree"):
        new_product("servers.fans", "samples", tmp_path)


def test_a_collector_is_declared_once_and_comments_stay() -> None:
    source = (
        "from a.b import B\nfrom a.d import D\n\n"
        "# Order.\nCOLLECTORS: tuple[X, ...] = (\n    B,  # first\n    D,\n)\n"
    )
    text = declare(source, "a.c", "C", Path("x.py"))
    assert text == source.replace("import B\n", "import B\nfrom a.c import C\n").replace(
        "= (\n", "= (\n    C,\n"
    )
    with pytest.raises(Precondition, match="declares C already"):
        declare(text, "a.c", "C", Path("x.py"))


def test_a_short_tuple_grows() -> None:
    importing = '"""Doc."""\nfrom a.b import B\n'
    assert declare(importing + "COLLECTORS = (B,)\n", "a.c", "C", Path("x.py")) == (
        importing + "from a.c import C\nCOLLECTORS = (\n    C,\n    B,\n)\n"
    )
    assert declare("COLLECTORS = ()\n", "a.c", "C", Path("x.py")) == "from a.c import C\nCOLLECTORS = (C,)\n"


def test_the_next_steps_name_the_test_that_was_written() -> None:
    assert "tests/agent/collectors/servers/test_fans.py" in next_steps("servers.fans")

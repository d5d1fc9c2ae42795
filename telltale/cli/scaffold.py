"""`telltale product new`: the proto, the collector and the test of a new product, complete and working."""

import ast
import keyword
import re
from pathlib import Path

from telltale import naming
from telltale.cli import scaffold_templates as templates
from telltale.errors import ConfigurationError, InvalidInput, Precondition

# Their products come from the processes of the mesh, not from collectors.
_WITHOUT_COLLECTORS = frozenset({naming.PLATFORM, naming.OPERATORS, "mesh", "analysis"})
_OWNER = re.compile(r'owner: "([^"]+)"\s+support: "([^"]+)"')


def new_product(product: str, kind: str, root: Path) -> list[Path]:
    """Writes the files of a new product into the working tree at `root` and returns them, relative to it.

    Raises InvalidInput for a bad name, Precondition when a file is there already; nothing is written then.
    """
    domain, name = _split(product)
    if not (root / "protos" / "buf.yaml").is_file():
        raise ConfigurationError(
            f"{root} is no working tree of Telltale; go to the directory with its Makefile"
        )
    collectors = Path("agent", "collectors", domain, "__init__.py")
    files = {
        Path("protos", "telltale", "api", domain, "v1", f"{name}.proto"): proto_text(product, kind, root),
        collectors.with_name(f"{name}.py"): _fill(templates.STARTS[kind].collector, product),
        Path("tests", "agent", "collectors", domain, f"test_{name}.py"): _fill(
            templates.STARTS[kind].test, product
        ),
    }
    for path in files:
        if (root / path).exists():
            raise Precondition(f"{path} is there already; choose another name or remove it")
    known = root / collectors
    declared = known.read_text() if known.is_file() else _fill(templates.COLLECTORS, product)
    files[collectors] = declare(declared, f"agent.collectors.{domain}.{name}", _title(name), collectors)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return list(files)


def next_steps(product: str) -> str:
    """What is left to do for the one who asked for the product."""
    domain, name = _split(product)
    return (
        "Next: make the proto say what you promise, let the collector read it, then\n"
        f"  make protos && .venv/bin/pytest tests/agent/collectors/{domain}/test_{name}.py && make up"
    )


def proto_text(product: str, kind: str, root: Path) -> str:
    """The contract that a new product starts with; its owner is that of the domain's other products."""
    domain, name = _split(product)
    if kind not in templates.STARTS:
        raise InvalidInput(f"{kind!r} is no kind; use {', '.join(templates.STARTS)}")
    start = templates.STARTS[kind]
    inventory = kind == "inventory"
    owner, support = _owner(root / "protos" / "telltale" / "api" / domain / "v1", domain)
    return templates.PROTO.substitute(
        product=product,
        domain=domain,
        title=_title(name),
        kind=kind.upper(),
        owner=owner,
        support=support,
        description=start.description,
        purpose=start.purpose,
        freshness=start.freshness,
        retention=start.retention,
        record=_fill(start.record, product),
        methods=_fill(templates.INVENTORY_METHODS, product) if inventory else "",
        removed=_fill(templates.INVENTORY_REMOVED, product) if inventory else "",
        listing=_fill(templates.INVENTORY_LISTING, product) if inventory else "",
    )


def declare(source: str, module: str, name: str, path: Path) -> str:
    """The text of a domain's `__init__.py` with one collector more: imported, and a line in COLLECTORS."""
    tree = ast.parse(source)
    declared = next(
        (
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            and isinstance(node.value, ast.Tuple)
            and "COLLECTORS" in ast.unparse(node).partition("=")[0]
        ),
        None,
    )
    if declared is None or declared.end_lineno is None or declared.end_col_offset is None:
        raise Precondition(f"{path} declares no tuple COLLECTORS; add `COLLECTORS = ()` to it")
    if any(ast.unparse(element) == name for element in declared.elts):
        raise Precondition(f"{path} declares {name} already; choose another name")
    lines = source.splitlines(keepends=True)
    if declared.elts and declared.elts[0].lineno > declared.lineno:
        # First, so that comments on the tuple's order stay true of its end.
        lines.insert(declared.lineno, f"    {name},\n")
    else:
        before = lines[declared.lineno - 1][: declared.col_offset]
        after = lines[declared.end_lineno - 1][declared.end_col_offset :]
        others = "".join(f"    {ast.unparse(element)},\n" for element in declared.elts)
        widened = f"(\n    {name},\n{others})" if others else f"({name},)"
        lines[declared.lineno - 1 : declared.end_lineno] = [before + widened + after]
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    # Imports stay in alphabetical order; whatever is not imported yet goes behind those that come before it.
    first = imports[0].lineno - 1 if imports else 1 if ast.get_docstring(tree) else 0
    place = max((node.end_lineno or 0 for node in imports if (node.module or "") < module), default=first)
    lines.insert(place, f"from {module} import {name}\n")
    return "".join(lines)


def _split(product: str) -> tuple[str, str]:
    domain = naming.owner_of(product)
    name = product.partition(".")[2]
    if domain in _WITHOUT_COLLECTORS:
        raise InvalidInput(
            f"products of {domain} come from the mesh's own processes; name a domain with sources"
        )
    if keyword.iskeyword(domain) or keyword.iskeyword(name) or "__" in product or product.endswith("_"):
        raise InvalidInput(f"{product!r} cannot be the name of a Python module; choose another name")
    return domain, name


def _title(name: str) -> str:
    """`disk_usage` -> `DiskUsage`."""
    return "".join(part.capitalize() for part in name.split("_"))


def _owner(directory: Path, domain: str) -> tuple[str, str]:
    for path in sorted(directory.glob("*.proto")):
        found = _OWNER.search(path.read_text())
        if found:
            return found[1], found[2]
    team = domain.replace("_", "-")
    return team, f"{team}@example.org"


def _fill(template: templates.Template, product: str) -> str:
    domain, name = _split(product)
    return template.substitute(product=product, domain=domain, name=name, title=_title(name))

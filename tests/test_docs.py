"""The documentation is about this tree: what exists is named in it, and what it names exists."""

import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import certs.policy
import certs.record
import gateway.decisions
import telltale.domain.access
import telltale.domain.ingest
import telltale.rpc.guard
from agent.settings import AgentSettings, ReceiverSettings
from certs.serve import AuthoritySettings
from gateway.settings import GatewaySettings
from services.analysis.settings import AnalysisSettings
from services.analysis.thresholds import Thresholds
from services.writer.settings import WriterSettings
from telltale.api.mesh.v1.ingest_pb2 import RefusalReason
from telltale.api.mesh.v1.product_pb2 import Classification, Kind
from telltale.cli.main import cli
from telltale.contract.governance import RULES, Rule
from telltale.contract.image import own_image
from telltale.contract.product import Contract, contracts_in
from telltale.domain.policy import ACTIONS, SEE
from telltale.domain.service import DomainSettings
from telltale.settings import IdentitySettings, Settings, default_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (DOCS / "architecture.md").read_text()
OPERATIONS = (DOCS / "operations.md").read_text()
COMMANDS = (DOCS / "cli.md").read_text()
DETECTION = (DOCS / "detection.md").read_text()
SECURITY = (DOCS / "security.md").read_text()

# What each heading of docs/operations.md lists, less what it shares with another.
PROCESSES: dict[str, tuple[type[Settings], type[Settings] | None]] = {
    "Every process but the authority": (IdentitySettings, None),
    "Agent": (AgentSettings, IdentitySettings),
    "Receiver": (ReceiverSettings, IdentitySettings),
    "Domain service": (DomainSettings, IdentitySettings),
    "Analysis service": (AnalysisSettings, DomainSettings),
    "Gateway": (GatewaySettings, IdentitySettings),
    "Writer": (WriterSettings, IdentitySettings),
    "Authority": (AuthoritySettings, None),
}


def contracts() -> list[Contract]:
    domains = sorted(path.parent.parent.name for path in (ROOT / "protos/telltale/api").glob("*/v1/*.proto"))
    return [
        contract
        for domain in dict.fromkeys(domains)
        if domain != "mesh"
        for contract in contracts_in(own_image(domain))
    ]


def variables(process: str) -> list[str]:
    """The rows of a process's table. Thresholds have theirs in docs/detection.md."""
    settings, known = PROCESSES[process]
    left_out = {*(known.model_fields if known else ()), *Thresholds.model_fields}
    return [
        f"| `TELLTALE_{name.upper()}` | {_code(default_of(field))} | {field.description} |"
        for name, field in settings.model_fields.items()
        if name not in left_out
    ]


def _code(default: str) -> str:
    value = default.removeprefix("default ")
    return default if value == default else f"`{value}`"


def commands(
    group: click.Group, path: tuple[str, ...] = ("telltale",)
) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def section(page: str, heading: str) -> str:
    """What stands below a heading that begins so; empty when there is none."""
    found = re.search(
        rf"^#+ `?{re.escape(heading)}\b[^\n]*\n(.*?)(?=^#+ |\Z)", page, re.DOTALL | re.MULTILINE
    )
    return found.group(1) if found else ""


def prose(page: str) -> str:
    """A page without its blocks of code, where brackets are no links and `#` no heading."""
    return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", prose(page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_is_reached_from_the_readme(page: Path) -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    if page.parent.name == "decisions" and page.name != "README.md":
        assert f"]({page.name})" in index
    elif page.name != "README.md":
        assert f"]({page.relative_to(ROOT)})" in README


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: contract.name)
def test_every_product_is_in_the_readme_as_its_contract_has_it(contract: Contract) -> None:
    kind = Kind.Name(contract.kind).removeprefix("KIND_").lower()
    classification = (
        Classification.Name(contract.options.classification).removeprefix("CLASSIFICATION_").lower()
    )
    description = " ".join(contract.description.split("\n\n")[0].split())
    assert f"| `{contract.name}` | {kind} | {classification} | {description} |" in README


@pytest.mark.parametrize(("name", "command"), list(commands(cli)))
def test_every_command_and_option_is_explained(name: str, command: click.Command) -> None:
    text = section(COMMANDS, name)
    assert text, f"docs/cli.md has no heading `{name}`"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in text, f"docs/cli.md does not explain {name} {parameter.opts[0]}"


def test_the_options_of_telltale_itself_are_explained() -> None:
    for parameter in cli.params:
        assert f"`{parameter.opts[0]}" in COMMANDS


@pytest.mark.parametrize("process", PROCESSES)
def test_every_setting_is_listed_as_the_process_reads_it(process: str) -> None:
    text = section(OPERATIONS, process)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    expected = variables(process)
    assert rows == expected, f"write below `{process}`:\n" + "\n".join(expected)


@pytest.mark.parametrize("name", Thresholds.model_fields)
def test_every_threshold_is_explained(name: str) -> None:
    assert f"| `TELLTALE_{name.upper()}` |" in DETECTION


@pytest.mark.parametrize(
    "package",
    sorted(
        str(path.parent.relative_to(ROOT))
        for top in ("agent", "certs", "gateway", "services", "telltale", "tools")
        for path in ROOT.glob(f"{top}/**/__init__.py")
        if len(path.relative_to(ROOT).parts) <= 3 and path.parent.name != "services"
    ),
)
def test_every_package_is_named(package: str) -> None:
    assert f"`{package}`" in README + ARCHITECTURE or f"`{package}/`" in README + ARCHITECTURE


def test_every_directory_and_module_of_the_kit_is_named() -> None:
    for path in ROOT.glob("telltale/*.py"):
        assert path.name == "__init__.py" or f"{path.name}`" in ARCHITECTURE
    for name in ("deploy", "protos", "tests"):
        assert f"`{name}/`" in README


def test_every_service_of_the_mesh_is_named() -> None:
    protos = "\n".join(path.read_text() for path in (ROOT / "protos/telltale/api/mesh/v1").glob("*.proto"))
    for service in re.findall(r"^service (\w+)", protos, re.MULTILINE):
        assert f"| `{service}` |" in ARCHITECTURE


def test_the_policy_that_the_readme_shows_is_in_force() -> None:
    (shown,) = re.findall(r"```cedar\n(.*?)```", README, re.DOTALL)
    assert shown in (ROOT / "services/servers/policy.cedar").read_text()


def test_the_rules_that_the_page_on_security_shows_are_in_force() -> None:
    shown = re.findall(r"```cedar\n(.*?)```", SECURITY, re.DOTALL)
    assert shown
    for rule in shown:
        assert rule in (ROOT / "services/servers/policy.cedar").read_text()


@pytest.mark.parametrize("target", ["up", "test"])
def test_the_two_commands_are_targets_of_make(target: str) -> None:
    assert f"`make {target}`" in README
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"up": "telltale up", "test": "pytest"}[target] in done.stdout


def test_continuous_integration_runs_what_the_readme_names() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("reason", RefusalReason.keys()[1:])
def test_every_reason_for_refusing_a_batch_is_explained(reason: str) -> None:
    assert f"`{reason.removeprefix('REFUSAL_REASON_')}`" in SECURITY


@pytest.mark.parametrize("action", [*ACTIONS, SEE])
def test_every_permission_is_explained(action: str) -> None:
    assert f"| `{action}` |" in SECURITY


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_of_the_mesh_is_listed_as_it_is_checked(rule: Rule) -> None:
    mandatory = "mandatory" if rule.mandatory else "recommended"
    row = f"| `{rule.name}` | {mandatory} | {rule.demands} | {rule.kept.value} |"
    assert row in SECURITY, f"write in docs/security.md:\n{row}"


def test_every_variable_that_anything_reads_is_explained() -> None:
    tops = ("agent", "certs", "deploy", "gateway", "services", "telltale")
    files = [
        ROOT / "compose.yaml",
        *(path for top in tops for path in (ROOT / top).rglob("*") if _is_source(path)),
    ]
    read = {name for file in files for name in re.findall(r"\bTELLTALE_[A-Z_]*[A-Z]\b", file.read_text())}
    assert read <= set(re.findall(r"\bTELLTALE_[A-Z_]*[A-Z]\b", OPERATIONS + DETECTION))


def _is_source(path: Path) -> bool:
    return (path.is_file() and path.suffix in (".py", ".sh")) or path.name == "Dockerfile"


@pytest.mark.parametrize(
    "action",
    sorted(
        {
            telltale.rpc.guard.AUTHENTICATE,
            telltale.domain.access.FORWARD,
            telltale.domain.ingest.ADMIT,
            gateway.decisions.REGISTER,
            gateway.decisions.ADMIT,
            gateway.decisions.FORWARD,
            certs.policy.INVITE,
            certs.record.ENROLL,
            certs.record.LOGIN,
            certs.record.RENEW,
            certs.record.ISSUE_TOKEN,
        }
    ),
)
def test_every_decision_that_is_recorded_is_explained(action: str) -> None:
    assert f"`{action}`" in section(SECURITY, "The audit log")


LIMIT = re.compile(r"`((?:telltale|gateway|services)\.[a-z_.]+)\.(_?[A-Z_]+)`")


def _limit(module: str, name: str) -> str:
    value: int = getattr(importlib.import_module(module), name)
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= 1 << 16 and value % size == 0:
            return f"{value // size:,} {unit}"
    return f"{value:,}"


def test_every_limit_on_the_page_is_what_it_is_in_the_code() -> None:
    rows = [row.split(" | ") for row in section(OPERATIONS, "Limits").splitlines() if LIMIT.search(row)]
    assert len(rows) > 20
    for what, most, constants, _ in rows:
        assert most == ", ".join(_limit(*found) for found in LIMIT.findall(constants)), what

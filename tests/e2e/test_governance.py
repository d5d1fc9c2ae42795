"""Rules of the mesh and clearance in a running mesh, as an operator meets them at the terminal."""

import json
import subprocess
from pathlib import Path

import pytest

from telltale.contract.governance import RULES
from tests.support.running_mesh import BIN, RunningMesh, environment, eventually, up

pytestmark = [pytest.mark.xdist_group("mesh"), pytest.mark.timeout(180)]

# Everybody may do everything: wider than any classification.
WIDE = '@id("anybody") permit (principal, action, resource);'

DOMAINS = {"servers.telltale.internal", "platform.telltale.internal", "analysis.telltale.internal"}


def domains(mesh: RunningMesh) -> set[str]:
    """Trust domains that have products; none as long as the mesh is only starting."""
    try:
        products = json.loads(mesh.telltale("products", "--json", check=False))
    except ValueError:
        return set()
    return {product["trust_domain"] for product in products}


def test_the_mesh_that_is_delivered_keeps_every_rule(mesh: RunningMesh) -> None:
    count = len(mesh.json("products"))
    assert mesh.telltale("governance") == f"{count} products keep all {len(RULES)} rules.\n"
    told = mesh.json("governance")
    assert len(told["products"]) == count and told["violations"] == []
    assert {rule["rule"] for rule in told["rules"]} == {rule.name for rule in RULES}


@pytest.mark.xdist_group("wide mesh")
def test_a_policy_for_everybody_is_told_and_is_a_failure(tmp_path: Path) -> None:
    policy = tmp_path / "wide.cedar"
    policy.write_text(WIDE)
    with up(tmp_path / "home", settings={"TELLTALE_POLICY": str(policy)}) as mesh:
        # Three domains, each of which registers whole.
        eventually(lambda: DOMAINS <= domains(mesh), "every domain's products", mesh)
        done = subprocess.run(
            [str(BIN / "telltale"), "--home", str(mesh.home), "governance", "--json"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        products = {product["product"] for product in mesh.json("products")}
    assert done.returncode == 1
    assert "products break mandatory rules" in done.stderr
    violations = json.loads(done.stdout)["violations"]
    assert {one["product"] for one in violations} == products
    assert {(one["rule"], one["element"]) for one in violations} == {("policy", 'the rule @id("anybody")')}

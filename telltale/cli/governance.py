"""`telltale governance`: what the products of the mesh and the policies over them owe to its rules."""

from dataclasses import asdict

from telltale import naming
from telltale.api.mesh.v1.catalog_pb2 import CatalogEntry
from telltale.cli import show
from telltale.cli.home import Home
from telltale.cli.operator import Operator, operator
from telltale.contract.governance import POLICY, RULES, Violation, violations
from telltale.contract.image import Image
from telltale.contract.product import Contract, contract_of
from telltale.domain.policy import Policy
from telltale.domain.probes import excesses
from telltale.errors import ConfigurationError, InvalidInput, Precondition, TelltaleError

# A domain that writes more than this to say who may do what cannot be judged by anybody.
_LARGEST_POLICY = 1 << 20


async def governance(home: Home, *, as_json: bool) -> None:
    """Lists what breaks a rule; raises Precondition when a mandatory one is broken."""
    async with operator(home) as mesh:
        entries = await mesh.catalog()
        found = await judged(mesh, entries, await mesh.image()) if entries else []
    found.sort(key=lambda one: (not one.mandatory, one.product, one.rule, one.element))
    if as_json:
        rules = [
            {"rule": rule.name, "mandatory": rule.mandatory, "demands": rule.demands, "kept": rule.kept.value}
            for rule in RULES
        ]
        products = [entry.product.name for entry in entries]
        show.document({"products": products, "rules": rules, "violations": [asdict(one) for one in found]})
    else:
        show.table(
            ("PRODUCT", "RULE", "MANDATORY", "ELEMENT", "WHAT IS WRONG", "WHAT TO DO"),
            [
                [one.product, one.rule, "yes" if one.mandatory else "no", one.element, one.wrong, one.cure]
                for one in found
            ],
            empty=f"{len(entries)} products keep all {len(RULES)} rules.",
        )
    broken = {one.product for one in found if one.mandatory}
    if broken:
        raise Precondition(
            f"{len(broken)} of {len(entries)} products break mandatory rules; "
            "their owners mend the contract or the policy"
        )


async def judged(mesh: Operator, entries: list[CatalogEntry], image: Image) -> list[Violation]:
    """What is wrong with the products of a catalog, by their contracts and their owners' policies."""
    found: list[Violation] = []
    owned: dict[str, list[Contract]] = {}
    for entry in entries:
        try:
            contract = contract_of(image, entry.service)
        except InvalidInput as wrong:
            cure = "serve what was registered, or register anew"
            found.append(
                Violation(entry.product.name, "shape", True, entry.service, f"cannot be read: {wrong}", cure)
            )
            continue
        owned.setdefault(entry.trust_domain, []).append(contract)
        found += violations([contract], image)
    for trust_domain, contracts in owned.items():
        found += await _over(mesh, trust_domain, contracts)
    return found


async def _over(mesh: Operator, trust_domain: str, contracts: list[Contract]) -> list[Violation]:
    """What is wrong with the policy of a domain."""
    name = mesh.mesh.name
    domains = [naming.domain_of(one, name) for one in mesh.me.trust.trust_domains]
    try:
        text = await mesh.policy(trust_domain)
        if len(text) > _LARGEST_POLICY:
            raise ConfigurationError(f"it has {len(text)} characters")
        return list(excesses(Policy(text, trust_domain), contracts, name, domains))
    except TelltaleError as unknown:
        # What could not be looked at is not in order.
        fault = (trust_domain, f"has a policy that cannot be judged: {unknown}", "see that its service runs")
        return [POLICY.violation(contract.name, fault) for contract in contracts]

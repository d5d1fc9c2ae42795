"""An authority's own policy: who may ask for a join token, for which kind of identity."""

from pathlib import Path

from certs.profiles import Profile
from telltale.domain.cedar import Decision, Principal, Rules, entity, read_rules, workload
from telltale.errors import PermissionMissing
from telltale.naming import SpiffeId, domain_of

DEFAULT = Path(__file__).with_name("policy.cedar")
INVITE = "invite"

_SCHEMA = f"""
entity Domain;
entity Group;
entity Workload in [Domain, Group] {{ trust_domain: String, domain: String, path: String }};
entity Kind in [Domain];
action {INVITE} appliesTo {{ principal: [Workload], resource: [Kind], context: {{ serves: Bool }} }};
"""


class InvitationPolicy:
    """The rules of one authority."""

    def __init__(self, text: str, name: str = "policy.cedar") -> None:
        """Reads rules; raises ConfigurationError naming file and line when one is wrong."""
        self._rules = Rules(text, name, _SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "InvitationPolicy":
        """Reads a policy file. Blocks."""
        return cls(read_rules(path), str(path))

    def require(self, principal: Principal, profile: Profile, mesh: str) -> Decision:
        """Why the principal may invite such an identity; raises PermissionMissing unless it may."""
        kind, trust_domain = kind_of(profile.spiffe_id), profile.spiffe_id.trust_domain
        decision = self._rules.decide(
            INVITE,
            workload(principal, domain_of(principal.spiffe_id.trust_domain, mesh)),
            entity("Kind", kind, domain_of(trust_domain, mesh), {}),
            context={"serves": bool(profile.dns_names)},
            missing="no rule permits it",
        )
        if not decision.allowed:
            names = " with server names" if profile.dns_names else ""
            raise PermissionMissing(
                str(principal),
                INVITE,
                f"identities of kind `{kind}`{names} of {trust_domain}",
                decision.rules,
            )
        return decision


def kind_of(spiffe_id: SpiffeId) -> str:
    """What an identity is for, by the first part of its path: `/agent/web1` -> `agent`."""
    return spiffe_id.path.split("/")[1]

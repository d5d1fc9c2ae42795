"""What an authority decides, told to its auditor; never with a join token or a token in it."""

from certs.distrusts import CONSOLE
from telltale.audit import Auditor, Decision
from telltale.errors import PermissionMissing, TelltaleError, Unauthenticated
from telltale.rpc.auth import Context, caller

# An identity's first certificate, for a join token.
ENROLL = "enroll"
# A person's session, for the ID token of a login.
LOGIN = "login"
# The end of a person's session, by the person.
LOGOUT = "logout"
# The next certificate of the same identity.
RENEW = "renew"
# A certificate whose successor was in use already: two holders of one identity.
USE_SUPERSEDED = "use_superseded"
# A bearer token.
ISSUE_TOKEN = "issue_token"


class Record:
    """Records the decisions of one authority."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    def stranger(
        self, context: Context, action: str, claimed: str, reason: str, *, allowed: bool, kind: str = ""
    ) -> None:
        """A decision on who comes without a certificate, about the identity that they claim or prove."""
        self._auditor.record(
            Decision(
                action=action,
                allowed=allowed,
                principal=claimed,
                reason=reason,
                subject=claimed,
                address=context.peer(),
                kind=kind,
            )
        )

    def operator_refused(self, action: str, refused: TelltaleError, subject: str) -> None:
        """That the caller of the running call, who acts for the operators, was refused something."""
        # Of those whom nobody knows the server tells.
        if not isinstance(refused, Unauthenticated):
            rules = refused.rules if isinstance(refused, PermissionMissing) else ()
            kind = type(refused).__name__
            self.known(action, str(refused), allowed=False, subject=subject, rules=rules, kind=kind)

    def console(self, action: str, reason: str, subject: str) -> None:
        """What was done where the authority's key lies, by whoever may read that."""
        self._auditor.record(
            Decision(action=action, allowed=True, principal=CONSOLE, reason=reason, subject=subject)
        )

    def known(
        self,
        action: str,
        reason: str,
        *,
        allowed: bool,
        subject: str = "",
        rules: tuple[str, ...] = (),
        kind: str = "",
    ) -> None:
        """A decision on the caller of the running call, by its certificate."""
        peer = str(caller().peer)
        self._auditor.record(
            Decision(
                action=action,
                allowed=allowed,
                principal=peer,
                reason=reason,
                subject=subject,
                peer=peer,
                address=caller().address,
                rules=rules,
                kind=kind,
            )
        )

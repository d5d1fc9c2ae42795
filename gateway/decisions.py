"""What the gateway itself decides, told to its auditor; who may read what, the owners decide and record."""

from telltale.audit import Auditor, Decision
from telltale.rpc.auth import caller

# A lease for a domain service.
REGISTER = "register"
# One more stream or routed call, within the limits.
ADMIT = "admit"
# A call that the gateway passes on.
FORWARD = "forward"


class Decisions:
    """Records decisions about the caller of the running call."""

    def __init__(self, auditor: Auditor) -> None:
        self._auditor = auditor

    def allowed(self, action: str, reason: str) -> None:
        self._record(action, reason, "", allowed=True)

    def denied(self, action: str, reason: Exception) -> None:
        self._record(action, str(reason), type(reason).__name__, allowed=False)

    def _record(self, action: str, reason: str, kind: str, *, allowed: bool) -> None:
        known = caller()
        self._auditor.record(
            Decision(
                action=action,
                allowed=allowed,
                principal=str(known.principal),
                reason=reason,
                kind=kind,
                peer=str(known.peer),
                address=known.address,
            )
        )

"""A decision that some process of the mesh has made, and whoever keeps record of it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Decision:
    """Who may, or may not, do what, and why."""

    # What was asked for: a permission of a policy, or a step in the life of an identity.
    action: str
    allowed: bool
    # Whose rights counted. Of somebody without a certificate only what they claim, which may be nothing.
    principal: str
    # The rules that decided, or what was missing.
    reason: str
    # Data product that it was about; empty when it was about none.
    product: str = ""
    # Identity that it was about, such as the one that was invited; empty when it was about none.
    subject: str = ""
    # Who was on the wire, proven by a certificate; empty for a stranger.
    peer: str = ""
    # Where they called from, such as `ipv4:192.0.2.1:4711`; empty when nobody called.
    address: str = ""


class Auditor(Protocol):
    """Keeps record of decisions. Never waits and never raises: work goes on, whatever becomes of it."""

    def record(self, decision: Decision) -> None: ...


class Unrecorded:
    """Forgets decisions: for programs that decide nothing on anybody else's behalf."""

    def record(self, decision: Decision) -> None:
        return

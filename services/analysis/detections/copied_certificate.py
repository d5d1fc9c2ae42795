"""Two holders of one identity, seen where it is renewed."""

from datetime import timedelta

from services.analysis.detection import Detection, Example
from services.analysis.rules.decisions import AUDIT, Decided
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

_AUTHORITY = "spiffe://servers.telltale.internal/authority"
_USED = {
    "reporter": "authority",
    "action": "use_superseded",
    "allowed": True,
    "count": 1,
    "subject": "spiffe://servers.telltale.internal/agent/web1",
    "reason": "two certificates of this identity are used by turns",
    "address": "192.0.2.7",
}

COPIED_CERTIFICATE = Detection(
    name="copied_certificate",
    version=1,
    verdict=Verdict.VERDICT_SECURITY,
    severity=Severity.SEVERITY_CRITICAL,
    purpose="Two certificates of one identity are used by turns: somebody has a copy of its key.",
    technique="T1649",
    # A holder asks for a token every few minutes; the other one may take its time.
    quiet=timedelta(hours=1),
    rule=Decided("use_superseded", "Two holders of one identity: {entity} uses two certificates by turns"),
    examples=(
        Example(
            "a copied key asks for tokens beside its owner",
            told=[(0, [_USED]), (600, [_USED]), (5_000, None)],
            finds=[("OPEN", "web1", ""), ("ENDED", "web1", "")],
            product=AUDIT,
            source=_AUTHORITY,
        ),
        Example(
            "renewals and tokens as ever",
            told=[(0, [{**_USED, "action": "renew"}, {**_USED, "action": "issue_token"}])],
            product=AUDIT,
            source=_AUTHORITY,
        ),
        Example(
            "an authority speaks of its own trust domain only",
            told=[(0, [_USED])],
            product=AUDIT,
            source="spiffe://network.telltale.internal/authority",
        ),
        Example(
            "no other process speaks of it",
            told=[(0, [_USED])],
            product=AUDIT,
            source="spiffe://servers.telltale.internal/service",
        ),
    ),
)

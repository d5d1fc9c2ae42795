"""What can go wrong, as one tree. Every message is one sentence that says what to do.

TelltaleError
├── ConfigurationError     a setting is missing or wrong: fix it and start again
├── InvalidInput           the request is not what the contract says
├── Unauthenticated        nobody knows who calls; carries what is known all the same
│   └── Unproven           its message repeats what the caller has written
├── PermissionMissing      the caller is known and may not; carries the permission
├── NotFound               no such thing
├── Precondition           not now: something else has to happen first
├── LimitExceeded          a bound was reached; carries its name
├── DeadlineExceeded       a caller took too long
├── Unavailable            a peer cannot be reached or answers badly; try again
│   └── Damaged            a file of ours does not hold together; its owner recovers it at its next start
└── BatchRefused           a sealed batch does not hold; carries the reason for the source
"""

from telltale.api.mesh.v1.ingest_pb2 import RefusalReason

# A message quotes what a stranger sent, and fits into the 16 KiB of a call's trailers, whatever its letters.
LONGEST_MESSAGE = 1_300


class TelltaleError(Exception):
    """Anything that Telltale itself found wrong."""

    def __str__(self) -> str:
        return shortened(super().__str__())


class ConfigurationError(TelltaleError):
    """A setting is missing or wrong."""


class InvalidInput(TelltaleError):
    """A request, a name or a message is not what the contract says."""


class Unauthenticated(TelltaleError):
    """A caller without a valid certificate and a token bound to it."""

    # For whoever keeps record of it: the identity on the wire where a certificate proved one, or what the
    # certificate claims.
    peer = ""
    claimed = ""


class Unproven(Unauthenticated):
    """One whose message repeats what the caller has written and nothing has proven."""


class PermissionMissing(TelltaleError):
    """A caller who is known and may not do this."""

    def __init__(self, principal: str, permission: str, product: str, rules: tuple[str, ...] = ()) -> None:
        super().__init__(
            f"{principal} lacks the permission `{permission}` on {product}; ask its owner for it"
        )
        self.principal = principal
        self.permission = permission
        self.product = product
        # Those that forbid it; empty when none permits it.
        self.rules = rules


class NotFound(TelltaleError):
    """Nothing has this name."""


class Precondition(TelltaleError):
    """Something else has to happen first."""


class LimitExceeded(TelltaleError):
    """A bound was reached."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


class DeadlineExceeded(TelltaleError):
    """A caller took too long."""


class Unavailable(TelltaleError):
    """A peer cannot be reached or answers badly."""


class Damaged(Unavailable):
    """A file on our own disk does not hold together."""


class BatchRefused(TelltaleError):
    """A sealed batch does not hold. `final`: the same batch will never be taken."""

    def __init__(self, reason: RefusalReason, detail: str, *, final: bool = True) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = shortened(detail)
        self.final = final


def shortened(message: str) -> str:
    """A message of at most LONGEST_MESSAGE characters."""
    return message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 4]} ..."

"""Errors as gRPC statuses and back: the one table, so that no handler aborts by itself."""

import grpc
import grpc.aio

from telltale.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionMissing,
    Precondition,
    TelltaleError,
    Unauthenticated,
    Unavailable,
)

_CODES: dict[type[TelltaleError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionMissing: grpc.StatusCode.PERMISSION_DENIED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Precondition: grpc.StatusCode.FAILED_PRECONDITION,
    LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    # A server that finds out during a call that it is set up wrongly: the caller can do nothing about it.
    ConfigurationError: grpc.StatusCode.INTERNAL,
}

# What a caller does about a status. Those that may pass by themselves are Unavailable.
_ERRORS: dict[grpc.StatusCode, type[TelltaleError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Precondition,
    grpc.StatusCode.ABORTED: Precondition,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
}


class PermissionRefused(PermissionMissing):
    """A PERMISSION_DENIED that came over the wire: the peer's own words, which name the permission."""

    def __init__(self, message: str) -> None:
        super().__init__("", "", "")
        self.args = (message,)


def code_of(error: TelltaleError) -> grpc.StatusCode:
    """The status of an error; INTERNAL for one that should never reach the wire."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def status_error(failed: grpc.aio.AioRpcError) -> TelltaleError:
    """What a peer's status means here."""
    code, detail = failed.code(), failed.details() or failed.code().name
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return PermissionRefused(detail)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return LimitExceeded("peer", detail)
    return _ERRORS.get(code, Unavailable)(detail)

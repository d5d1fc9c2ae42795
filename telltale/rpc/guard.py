"""What stands around every handler: who calls, when a stream must end, errors as statuses, and the counts."""

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from opentelemetry import metrics

from telltale.audit import UNRECORDED, Auditor, Decision, place_of
from telltale.errors import InvalidInput, TelltaleError, Unauthenticated, Unavailable
from telltale.rpc.auth import CallAuthenticator, Caller, Context, set_caller
from telltale.rpc.status import code_of

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# What is asked for by every call, before anything else.
AUTHENTICATE = "authenticate"
# A proxy serves whatever method a peer names; metrics must not grow with what peers invent.
_MOST_METHODS = 500
_OTHER_METHODS = "other"

_log = structlog.get_logger("telltale.rpc")
_calls = metrics.get_meter("telltale.rpc").create_counter(
    "telltale.rpc.calls",
    unit="{call}",
    description="Calls that ended, refusals included, by method and status.",
)
_STATUS = {code.value[0]: code for code in grpc.StatusCode}

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Decode = Callable[[bytes], Any] | None


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps all four shapes of handlers, a proxy's raw ones too. Without authenticator, for strangers."""

    def __init__(self, authenticator: CallAuthenticator | None, auditor: Auditor = UNRECORDED) -> None:
        self.authenticator = authenticator
        self.auditor = auditor
        self._streams: set[_Deadline] = set()
        self._methods: set[str] = set()

    async def intercept_service(  # type: ignore[override]  # None is UNIMPLEMENTED; the stubs do not say
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self._guarded(handler, handler_call_details.method)

    def end_streams(self) -> None:
        """Tells every streaming handler to return, so that the server can stop without waiting for them."""
        for stream in tuple(self._streams):
            stream.end(Unavailable("the server is stopping; resume from the cursor"))

    def label(self, method: str) -> str:
        """The method as metrics name it."""
        if method not in self._methods:
            if len(self._methods) >= _MOST_METHODS:
                return _OTHER_METHODS
            self._methods.add(method)
        return method

    def _guarded(self, handler: Any, method: str) -> Handler:
        # Requests are decoded behind the authentication: strangers' bytes are not parsed, and what
        # cannot be parsed is the caller's mistake instead of an internal error.
        decode: Decode = handler.request_deserializer
        encode = handler.response_serializer
        if not handler.request_streaming and not handler.response_streaming:
            single = self._single(handler.unary_unary, method, decode, streaming=False)
            return grpc.unary_unary_rpc_method_handler(single, None, encode)
        if not handler.response_streaming:
            single = self._single(handler.stream_unary, method, decode, streaming=True)
            return grpc.stream_unary_rpc_method_handler(single, None, encode)
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
        wrap = self._generated if inspect.isasyncgenfunction(behaviour) else self._written
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(wrap(behaviour, method, decode, streaming=handler.request_streaming), None, encode)

    def _single(self, behaviour: Any, method: str, decode: Decode, *, streaming: bool) -> Any:
        """One response; the request may be a stream."""

        async def guarded(request: Any, context: Context) -> Any:
            async with _Call(self, method, context) as call:
                await call.admit(stream=streaming)
                async with _decoded(request, decode, streaming) as decoded, call.deadline:
                    return await behaviour(decoded, context)

        return guarded

    def _generated(self, behaviour: Any, method: str, decode: Decode, *, streaming: bool) -> Any:
        """A stream of responses from an async generator."""

        async def guarded(request: Any, context: Context) -> None:
            async with _Call(self, method, context) as call:
                await call.admit(stream=True)
                async with (
                    _decoded(request, decode, streaming) as decoded,
                    aclosing(behaviour(decoded, context)) as responses,
                ):
                    while True:
                        # Only while the handler works: cutting a write short would leave no way to say why.
                        async with call.deadline:
                            try:
                                response = await anext(responses)
                            except StopAsyncIteration:
                                return
                        # Written, not yielded on: this task closes the handler, however the call ends.
                        await context.write(response)

        return guarded

    def _written(self, behaviour: Any, method: str, decode: Decode, *, streaming: bool) -> Any:
        """A stream of responses from a coroutine that writes them to its context."""

        async def guarded(request: Any, context: Context) -> None:
            async with _Call(self, method, context) as call:
                await call.admit(stream=True)
                async with _decoded(request, decode, streaming) as decoded, call.deadline:
                    await behaviour(decoded, context)

        return guarded


class _Deadline:
    """When a stream has to end, which may come nearer while it runs. Entered whenever its handler works."""

    def __init__(self) -> None:
        self._when: float | None = None
        self._reason: TelltaleError = Unavailable("the stream ended; resume from the cursor")
        self._timeout: asyncio.Timeout | None = None

    def end(self, reason: TelltaleError, after: float = 0.0) -> None:
        """Ends the stream with this reason after so many seconds."""
        self._when, self._reason = asyncio.get_running_loop().time() + after, reason
        if self._timeout is not None:
            self._timeout.reschedule(self._when)

    async def __aenter__(self) -> None:
        # A handler that always has the next response ready never lets a timeout fire.
        if self._when is not None and self._when <= asyncio.get_running_loop().time():
            raise self._reason
        self._timeout = asyncio.timeout_at(self._when)
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        timeout, self._timeout = self._timeout, None
        if timeout is None:
            return
        try:
            await timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            if timeout.expired():
                raise self._reason from None
            raise


class _Call:
    """One call from admission to its status."""

    def __init__(self, guard: Guard, method: str, context: Context) -> None:
        self._guard = guard
        self._method = method
        self._context = context
        self._known: Caller | None = None
        self._expired = Unauthenticated("token expired, resume from cursor")
        self.deadline = _Deadline()

    async def admit(self, *, stream: bool) -> None:
        """Finds out who calls, and when a stream of theirs has to end."""
        if self._guard.authenticator is not None and self._method != HEALTH_CHECK:
            known = await self._guard.authenticator.authenticate(self._context)
            set_caller(known)
            self._known = known
            if stream:
                left = (known.expires - datetime.now(UTC)).total_seconds()
                self.deadline.end(self._expired, max(0.0, left))
        if stream:
            self._guard._streams.add(self.deadline)

    async def __aenter__(self) -> "_Call":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._guard._streams.discard(self.deadline)
        code = self._outcome(error)
        _calls.add(1, {"rpc.method": self._guard.label(self._method), "rpc.response.status_code": code.name})
        if isinstance(error, Unauthenticated):
            self._record(error)
        if isinstance(error, TelltaleError) and code is not grpc.StatusCode.INTERNAL:
            await self._context.abort(code, str(error))
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            if code is grpc.StatusCode.CANCELLED:
                return True
            if code is grpc.StatusCode.UNIMPLEMENTED:
                await self._context.abort(code, f"{self._method} is not served here")
            await self._fail(error)
        return False

    def _record(self, refused: Unauthenticated) -> None:
        """Tells of a caller whom this server does not know, or no longer."""
        # A stream that ends with its token is no refusal. Strangers have their own port, which tells of them.
        if refused is self._expired or self._guard.authenticator is None:
            return
        known = self._known
        peer = str(known.peer) if known is not None else refused.peer
        self._guard.auditor.record(
            Decision(
                action=AUTHENTICATE,
                allowed=False,
                principal=peer or refused.claimed,
                reason=f"{refused} ({self._guard.label(self._method)})",
                peer=peer,
                address=place_of(self._context.peer()),
            )
        )

    def _outcome(self, error: BaseException | None) -> grpc.StatusCode:
        if error is None or isinstance(error, grpc.aio.AbortError):
            said: Any = self._context.code()
            if isinstance(said, grpc.StatusCode):
                return said
            return _STATUS.get(said or 0, grpc.StatusCode.UNKNOWN)
        if isinstance(error, TelltaleError):
            return code_of(error)
        if isinstance(error, NotImplementedError):
            # What generated base classes raise for methods that a service leaves out.
            return grpc.StatusCode.UNIMPLEMENTED
        # A write to a peer that has gone fails in several ways; none of them is an error of ours.
        broken_wire = isinstance(error, grpc.aio.InternalError)
        gone = broken_wire or self._context.cancelled() or not isinstance(error, Exception)
        return grpc.StatusCode.CANCELLED if gone else grpc.StatusCode.INTERNAL

    async def _fail(self, error: Exception) -> None:
        """Tells the caller nothing but where to look: what failed is for the log."""
        incident = secrets.token_hex(6)
        _log.error("call failed", method=self._method, incident=incident, exc_info=error)
        await self._context.abort(
            grpc.StatusCode.INTERNAL,
            f"internal error; its traceback is in the server's log as incident {incident}",
        )


class _Requests:
    """The requests of a stream, decoded one by one."""

    def __init__(self, raw: AsyncIterator[bytes], decode: Decode) -> None:
        self._raw = raw
        self._reading: AsyncIterator[bytes] | None = None
        self._decode = decode

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> Any:
        if self._reading is None:
            self._reading = aiter(self._raw)
        data = await anext(self._reading)
        return data if self._decode is None else _message(data, self._decode)

    async def aclose(self) -> None:
        """Ends the reading: gRPC's generator would otherwise wait for a collector of garbage that may
        come when the loop has gone."""
        if self._reading is not None:
            await self._reading.aclose()  # type: ignore[attr-defined]  # gRPC's is a generator


@asynccontextmanager
async def _decoded(request: Any, decode: Decode, streaming: bool) -> AsyncIterator[Any]:
    if streaming:
        async with aclosing(_Requests(request, decode)) as requests:
            yield requests
    else:
        yield request if decode is None else _message(request, decode)


def _message(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    try:
        return decode(data)
    except (DecodeError, ValueError) as broken:
        raise InvalidInput(
            "the request is not the message that this method takes; see its description"
        ) from broken

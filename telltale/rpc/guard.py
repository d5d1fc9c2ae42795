"""What stands around every handler: who calls, when a stream must end, errors as statuses, and the counts."""

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from opentelemetry import metrics

from telltale.audit import UNRECORDED, Auditor, Decision, place_of
from telltale.errors import LimitExceeded, TelltaleError, Unauthenticated, Unavailable, Unproven
from telltale.rpc.auth import CallAuthenticator, Caller, Context, set_caller
from telltale.rpc.bounds import Bounds, Calls
from telltale.rpc.requests import Decode, single, streamed
from telltale.rpc.status import code_of

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# What is asked for by every call, before anything else,
AUTHENTICATE = "authenticate"
# and then: one more of this caller's at once.
ADMIT = "admit"
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


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Wraps all four shapes of handlers, a proxy's raw ones too. Without authenticator, for strangers."""

    def __init__(
        self, authenticator: CallAuthenticator | None, bounds: Bounds, auditor: Auditor = UNRECORDED
    ) -> None:
        self.authenticator = authenticator
        self.bounds = bounds
        self.calls = Calls(bounds)
        self.auditor = auditor
        self._streams: set[_Call] = set()
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
            stream.deadline.end(Unavailable("the server is stopping; resume from the cursor"))

    async def reconsider(self) -> None:
        """Ends the streams of those who would no longer be admitted, such as who was distrusted meanwhile."""
        if self.authenticator is None:
            return
        for stream in tuple(self._streams):
            # With a changed bundle every proof is made anew: other calls get their turns in between.
            await asyncio.sleep(0)
            if stream not in self._streams:
                continue
            try:
                await self.authenticator.authenticate(stream.context)
            except Unauthenticated as refused:
                stream.deadline.end(refused)

    def label(self, method: str) -> str:
        """The method as metrics name it."""
        if method not in self._methods:
            if len(self._methods) >= _MOST_METHODS:
                return _OTHER_METHODS
            self._methods.add(method)
        return method

    def _guarded(self, handler: Any, method: str) -> Handler:
        # Requests are decoded behind the authentication: strangers' bytes are not parsed, and what
        # cannot be parsed is the caller's mistake instead of an internal error. To gRPC every method takes
        # a stream of requests, because it calls those that take one only when that has come: until then
        # nobody would know who holds the call. On the wire they are the same.
        decode: Decode = handler.request_deserializer
        encode = handler.response_serializer
        streaming = handler.request_streaming
        if not handler.response_streaming:
            answer = handler.stream_unary if streaming else handler.unary_unary
            guarded = self._single(answer, method, decode, streaming=streaming)
            return grpc.stream_unary_rpc_method_handler(guarded, None, encode)
        behaviour = handler.stream_stream if streaming else handler.unary_stream
        wrap = self._generated if inspect.isasyncgenfunction(behaviour) else self._written
        guarded = wrap(behaviour, method, decode, streaming=streaming)
        return grpc.stream_stream_rpc_method_handler(guarded, None, encode)

    def _single(self, behaviour: Any, method: str, decode: Decode, *, streaming: bool) -> Any:
        """One response; the request may be a stream."""

        async def guarded(raw: AsyncIterator[bytes], context: Context) -> Any:
            async with _Call(self, method, context) as call:
                await call.admit(stream=streaming)
                async with call.requests(raw, decode, streaming) as decoded, call.deadline:
                    return await behaviour(decoded, context)

        return guarded

    def _generated(self, behaviour: Any, method: str, decode: Decode, *, streaming: bool) -> Any:
        """A stream of responses from an async generator."""

        async def guarded(raw: AsyncIterator[bytes], context: Context) -> None:
            async with _Call(self, method, context) as call:
                await call.admit(stream=True)
                async with (
                    call.requests(raw, decode, streaming) as decoded,
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

        async def guarded(raw: AsyncIterator[bytes], context: Context) -> None:
            async with _Call(self, method, context) as call:
                await call.admit(stream=True)
                async with call.requests(raw, decode, streaming) as decoded, call.deadline:
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
        self.context = context
        self._known: Caller | None = None
        self._expired = Unauthenticated("token expired, resume from cursor")
        self.deadline = _Deadline()

    async def admit(self, *, stream: bool) -> None:
        """Finds out who calls, if they may make one more call, and when a stream of theirs has to end."""
        if self._guard.authenticator is None or self._method == HEALTH_CHECK:
            with self._admission():
                self._guard.calls.admit_unknown(self.context)
        else:
            known = await self._guard.authenticator.authenticate(self.context)
            set_caller(known)
            self._known = known
            with self._admission():
                self._guard.calls.admit(known)
            if stream:
                left = (known.expires - datetime.now(UTC)).total_seconds()
                self.deadline.end(self._expired, max(0.0, left))
        if stream:
            self._guard._streams.add(self)

    @contextmanager
    def _admission(self) -> Iterator[None]:
        try:
            yield
        except LimitExceeded as refused:
            self._record(ADMIT, refused)
            raise

    def requests(
        self, raw: AsyncIterator[bytes], decode: Decode, streaming: bool
    ) -> "AbstractAsyncContextManager[Any]":
        """What the handler is called with: the one request, or all of them as they come."""
        if streaming:
            return streamed(raw, decode)
        return single(self.context, decode, self._guard.bounds.first_message)

    async def __aenter__(self) -> "_Call":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._guard._streams.discard(self)
        code = self._outcome(error)
        _calls.add(1, {"rpc.method": self._guard.label(self._method), "rpc.response.status_code": code.name})
        # A stream that ends with its token is no refusal. Strangers have their own port, which tells of them.
        expected = error is self._expired or self._guard.authenticator is None
        if isinstance(error, Unauthenticated) and not expected:
            self._record(AUTHENTICATE, error)
        if isinstance(error, TelltaleError) and code is not grpc.StatusCode.INTERNAL:
            await self.context.abort(code, str(error))
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            if code is grpc.StatusCode.CANCELLED:
                return True
            if code is grpc.StatusCode.UNIMPLEMENTED:
                await self.context.abort(code, f"{self._method} is not served here")
            await self._fail(error)
        return False

    def _record(self, action: str, refused: Unauthenticated | LimitExceeded) -> None:
        """Tells of a caller whom this server does not know, or no longer, or who has too many calls."""
        method = self._guard.label(self._method)
        known, peer, claimed = self._known, "", ""
        if known is not None:
            peer = str(known.peer)
        elif isinstance(refused, Unauthenticated):
            peer, claimed = refused.peer, refused.claimed
        self._guard.auditor.record(
            Decision(
                action=action,
                allowed=False,
                principal=str(known.principal) if known is not None else peer or claimed,
                reason=f"{refused} ({method})",
                kind=f"Unproven ({method})" if isinstance(refused, Unproven) else "",
                peer=peer,
                address=place_of(self.context.peer()),
            )
        )

    def _outcome(self, error: BaseException | None) -> grpc.StatusCode:
        if error is None or isinstance(error, grpc.aio.AbortError):
            said: Any = self.context.code()
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
        gone = broken_wire or self.context.cancelled() or not isinstance(error, Exception)
        return grpc.StatusCode.CANCELLED if gone else grpc.StatusCode.INTERNAL

    async def _fail(self, error: Exception) -> None:
        """Tells the caller nothing but where to look: what failed is for the log."""
        incident = secrets.token_hex(6)
        _log.error("call failed", method=self._method, incident=incident, exc_info=error)
        await self.context.abort(
            grpc.StatusCode.INTERNAL,
            f"internal error; its traceback is in the server's log as incident {incident}",
        )

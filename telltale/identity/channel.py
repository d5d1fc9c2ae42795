"""A channel that follows its workload's certificate: new calls show the new one, running ones end in peace.

A token is bound to a certificate and so is a connection. A channel that kept the old
certificate after a renewal would carry tokens that no longer fit it.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import grpc
import grpc.aio

from telltale.identity.credentials import Credentials
from telltale.identity.tokens import LONGEST_LIFE


class RenewingChannel(grpc.aio.Channel):
    """Looks at each call whether credentials and trust are still those that it was made with."""

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        make: Callable[[Credentials], grpc.aio.Channel],
        trust: Callable[[], object] = lambda: None,
    ) -> None:
        self._credentials = credentials
        self._make = make
        self._trust = trust
        self._shown = credentials()
        self._believed = trust()
        self._current = make(self._shown)
        self._retired: dict[asyncio.Task[None], grpc.aio.Channel] = {}
        self._closed = False

    def current(self) -> grpc.aio.Channel:
        """The channel for the next call."""
        credentials, believed = self._credentials(), self._trust()
        changed = credentials is not self._shown or believed is not self._believed
        if changed and not self._closed:
            fresh = self._make(credentials)
            # Streams on the old channel end with their token, and the token ends with the certificate at the
            # latest: nothing there outlives this. Without a call it closes at once.
            old, left = self._current, self._shown.not_after - datetime.now(UTC)
            grace = max(0.0, min(LONGEST_LIFE, left).total_seconds())
            closing = asyncio.create_task(old.close(grace))
            self._retired[closing] = old
            closing.add_done_callback(lambda done: self._retired.pop(done, None))
            self._shown, self._believed, self._current = credentials, believed, fresh
        return self._current

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return lambda *call, **named: self.current().unary_unary(method, *args, **kwargs)(*call, **named)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return lambda *call, **named: self.current().unary_stream(method, *args, **kwargs)(*call, **named)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return lambda *call, **named: self.current().stream_unary(method, *args, **kwargs)(*call, **named)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return lambda *call, **named: self.current().stream_stream(method, *args, **kwargs)(*call, **named)

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        retired = dict(self._retired)
        for closing in retired:
            closing.cancel()
        await asyncio.gather(*retired, return_exceptions=True)
        for channel in (*retired.values(), self._current):
            await channel.close(grace)

    async def __aenter__(self) -> "RenewingChannel":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.current().channel_ready()

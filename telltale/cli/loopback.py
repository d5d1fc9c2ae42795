"""Where a browser brings the answer of a login: a port on loopback (RFC 8252, section 7.3)."""

import asyncio
import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

from telltale.errors import Unauthenticated, Unavailable

_PATH = "/login"
_PATIENCE = 300.0
# A browser sends its cookies for loopback too.
_LARGEST_REQUEST = 64 * 1024
_SLOWEST_REQUEST = 10.0
_MOST_AT_ONCE = 16
_PAGE = "<!doctype html><meta charset=utf-8><title>Telltale</title><p>{}</p>"


class Redirect:
    """The address that a login returns to. `state` proves that an answer belongs to the question."""

    def __init__(self) -> None:
        self.state = secrets.token_urlsafe(32)
        self.uri = ""
        self._answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._serving = 0

    async def answer(self) -> dict[str, str]:
        """The parameters of the answer. Raises Unavailable when none comes, Unauthenticated for a refusal."""
        try:
            answer = await asyncio.wait_for(asyncio.shield(self._answer), _PATIENCE)
        except TimeoutError:
            raise Unavailable(f"nobody has logged in for {_PATIENCE:.0f} seconds; try again") from None
        if "error" in answer:
            told = answer.get("error_description", answer["error"])
            raise Unauthenticated(f"the provider refuses the login: {told}")
        return answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of a browser; anybody on this machine can send others."""
        self._serving += 1
        try:
            if self._serving > _MOST_AT_ONCE:
                return
            async with asyncio.timeout(_SLOWEST_REQUEST):
                status, told = self._take(await reader.readuntil(b"\r\n\r\n"))
                writer.write(_response(status, told))
                await writer.drain()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        finally:
            self._serving -= 1
            writer.close()

    def _take(self, head: bytes) -> tuple[str, str]:
        method, _, rest = head.decode("latin-1").partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        if method != "GET" or target.path != _PATH:
            return "404 Not Found", "There is nothing here."
        given = parse_qs(target.query, max_num_fields=50)
        # A parameter that comes twice means two things to two readers.
        answer = {name: values[0] for name, values in given.items() if len(values) == 1}
        if not hmac.compare_digest(answer.get("state", "").encode(), self.state.encode()):
            return "400 Bad Request", "This is no answer to the login that waits here."
        if not self._answer.done():
            self._answer.set_result(answer)
        return "200 OK", "Done. Go back to the terminal and close this page."


@asynccontextmanager
async def redirect() -> AsyncIterator[Redirect]:
    """Listens on loopback while the body runs."""
    waiting = Redirect()
    server = await asyncio.start_server(waiting.serve, "127.0.0.1", 0, limit=_LARGEST_REQUEST)
    async with server:
        waiting.uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{_PATH}"
        yield waiting


def _response(status: str, told: str) -> bytes:
    body = _PAGE.format(told).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n"
        # The address of this page holds the code: nothing may carry it further.
        "Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body

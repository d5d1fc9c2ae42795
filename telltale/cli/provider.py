"""The OpenID Connect provider as a person's machine sees it: a login becomes an ID token.

A public client without a secret: authorization code with PKCE through a browser (RFC 8252), or a
code that is typed in elsewhere (RFC 8628). What the ID token says is for the authority to judge.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from telltale.cli.loopback import redirect
from telltale.errors import Precondition, Unauthenticated, Unavailable
from telltale.identity.person import Provider

_TIMEOUT = 10.0
_DISCOVERY = "/.well-known/openid-configuration"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
# RFC 8628, section 3.5: five seconds where the provider says nothing, and more when it says so.
_INTERVAL = 5.0
_SLOWER = 5.0
_LONGEST_WAIT = 900.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Confirmation:
    """What a person types in on another device."""

    url: str
    code: str
    # The address with the code in it; empty where the provider has none.
    direct: str


class OpenId:
    """One provider, asked on behalf of one client."""

    def __init__(self, provider: Provider, http: httpx.AsyncClient) -> None:
        self._provider = provider
        self._http = http

    async def by_browser(self, nonce: str, show: Callable[[str], Awaitable[None]]) -> str:
        """The ID token of a login in a browser, whose address is shown."""
        told = await self._discovered()
        verifier = secrets.token_urlsafe(48)
        async with redirect() as waiting:
            await show(
                prepare_grant_uri(
                    _endpoint(told, "authorization_endpoint"),
                    self._provider.client_id,
                    "code",
                    redirect_uri=waiting.uri,
                    scope=" ".join(self._provider.scopes),
                    state=waiting.state,
                    nonce=nonce,
                    code_challenge=create_s256_code_challenge(verifier),
                    code_challenge_method="S256",
                )
            )
            answer = await waiting.answer()
        # RFC 9207: an answer of another provider would have its code sent to this one.
        if answer.get("iss", self._provider.issuer) != self._provider.issuer:
            raise Unauthenticated(
                f"the answer is of {answer['iss'][:200]!r}; log in at {self._provider.issuer}"
            )
        given = await self._post(
            _endpoint(told, "token_endpoint"),
            grant_type="authorization_code",
            code=answer.get("code", ""),
            redirect_uri=waiting.uri,
            code_verifier=verifier,
        )
        return _id_token(given)

    async def by_device(self, nonce: str, show: Callable[[Confirmation], Awaitable[None]]) -> str:
        """The ID token of a login on another device, where the code that is shown is typed in."""
        told = await self._discovered()
        if "device_authorization_endpoint" not in told:
            raise Precondition(
                f"{self._provider.issuer} has no login by device; log in without `--device`, with a browser"
            )
        endpoint = _endpoint(told, "token_endpoint")
        asked = await self._post(
            _endpoint(told, "device_authorization_endpoint"),
            scope=" ".join(self._provider.scopes),
            # Not of RFC 8628: a provider that drops it gives an ID token that the authority does not take.
            nonce=nonce,
        )
        try:
            code = str(asked["device_code"])
            uri, typed = str(asked["verification_uri"]), str(asked["user_code"])
            pause = float(asked.get("interval", _INTERVAL))
            end = time.monotonic() + min(float(asked["expires_in"]), _LONGEST_WAIT)
        except (KeyError, TypeError, ValueError) as wrong:
            raise Unavailable(
                f"{self._provider.issuer} answers a device with no code; ask its people"
            ) from wrong
        await show(Confirmation(uri, typed, str(asked.get("verification_uri_complete", ""))))
        while time.monotonic() < end:
            await asyncio.sleep(max(0.0, pause))
            given = await self._sent(endpoint, grant_type=_DEVICE_GRANT, device_code=code)
            match given.get("error"):
                case "authorization_pending":
                    continue
                case "slow_down":
                    pause += _SLOWER
                case None:
                    return _id_token(given)
                case _:
                    raise _refused(given)
        raise Unavailable("nobody has confirmed the login in time; try again")

    async def _discovered(self) -> dict[str, Any]:
        url = self._provider.issuer.rstrip("/") + _DISCOVERY
        told = await self._asked(self._http.get(url))
        if told.get("issuer") != self._provider.issuer:
            raise Unavailable(
                f"{url} is of {str(told.get('issuer'))[:200]!r}; the mesh means {self._provider.issuer}"
            )
        return told

    async def _post(self, endpoint: str, **parameters: str) -> dict[str, Any]:
        given = await self._sent(endpoint, **parameters)
        if "error" in given:
            raise _refused(given)
        return given

    async def _sent(self, endpoint: str, **parameters: str) -> dict[str, Any]:
        return await self._asked(
            self._http.post(endpoint, data={"client_id": self._provider.client_id, **parameters})
        )

    async def _asked(self, call: Any) -> dict[str, Any]:
        try:
            answer = await call
            told = answer.json()
        except httpx.HTTPError as failed:
            reason = str(failed) or type(failed).__name__
            raise Unavailable(
                f"{self._provider.issuer} does not answer ({reason}); try again later"
            ) from failed
        except ValueError:
            told = None
        # A refusal is JSON too, with the word `error` in it.
        if not isinstance(told, dict) or (answer.is_error and "error" not in told):
            raise Unavailable(
                f"{answer.request.url.host} answers {answer.status_code}; ask the provider's people"
            )
        return told


def client() -> httpx.AsyncClient:
    """What asks a provider. It follows no redirect: an answer comes from whom the mesh named."""
    return httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False)


def _endpoint(told: dict[str, Any], name: str) -> str:
    """An address of the discovery document; codes and tokens go over TLS, or stay on this machine."""
    endpoint = told.get(name)
    parts = urlsplit(endpoint if isinstance(endpoint, str) else "")
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not isinstance(endpoint, str) or not (parts.scheme == "https" or plain):
        raise Unavailable(f"the provider's {name} is no https:// address; ask its people")
    return endpoint


def _id_token(given: dict[str, Any]) -> str:
    token = given.get("id_token")
    if not isinstance(token, str):
        raise Unavailable("the provider gives no ID token; let its people allow `openid` for this client")
    return token


def _refused(given: dict[str, Any]) -> Unauthenticated:
    told = str(given.get("error_description") or given.get("error"))
    return Unauthenticated(f"the provider refuses the login: {told[:500]}")

"""A small OpenID Connect provider on loopback: authorization code with PKCE, device grant, and forged tokens.

It logs in whoever comes, as the person that the test has chosen, and keeps to the letter of what
clients must do: redirect to loopback, S256, each code once.
"""

import base64
import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

CLIENT_ID = "telltale"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass
class Provider:
    """What the provider knows. Tests change it while it serves."""

    issuer: str = ""
    # Claims of the person who logs in next.
    person: dict[str, Any] = field(
        default_factory=lambda: {"sub": "u-1", "preferred_username": "alice", "groups": ["/mesh/operators"]}
    )
    keys: dict[str, tuple[Any, str]] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    # Devices that wait: device code -> (nonce, whether a person has confirmed it).
    devices: dict[str, tuple[str, bool]] = field(default_factory=dict)
    with_device_grant: bool = True
    # Whether the provider keeps the nonce of a device grant; not all do.
    binds_devices: bool = True
    jwks_served: int = 0
    extra_jwks: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys["one"] = (ec.generate_private_key(ec.SECP256R1()), "ES256")

    def id_token(
        self, nonce: str | None, *, kid: str | None = "one", alg: str = "", key: Any = None, **changed: Any
    ) -> str:
        """An ID token for the person; `changed` replaces claims, and None leaves one out."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            **self.person,
            **changed,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        known, algorithm = self.keys.get(kid or "one", self.keys["one"])
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(claims, key or known, algorithm=alg or algorithm, headers=headers)

    def jwks(self) -> dict[str, Any]:
        entries = []
        for kid, (key, algorithm) in self.keys.items():
            is_rsa = isinstance(key, rsa.RSAPrivateKey)
            algorithms = jwt.algorithms
            kind = algorithms.RSAAlgorithm if is_rsa else algorithms.ECAlgorithm
            entry = kind.to_jwk(key.public_key(), as_dict=True)
            entries.append({**entry, "kid": kid, "alg": algorithm, "use": "sig"})
        return {"keys": [*entries, *self.extra_jwks]}

    def discovery(self) -> dict[str, Any]:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "code_challenge_methods_supported": ["S256"],
        }
        if self.with_device_grant:
            document["device_authorization_endpoint"] = f"{self.issuer}/device"
        return document

    def authorize(self, asked: dict[str, str]) -> tuple[int, str]:
        """The redirect of a login, or why there is none."""
        redirect = urlsplit(asked.get("redirect_uri", ""))
        if redirect.scheme != "http" or redirect.hostname != "127.0.0.1":
            return 400, "redirect_uri is not on loopback"
        wrong = next(
            (
                name
                for name, wanted in {
                    "client_id": CLIENT_ID,
                    "response_type": "code",
                    "code_challenge_method": "S256",
                }.items()
                if asked.get(name) != wanted
            ),
            None,
        )
        if wrong or "openid" not in asked.get("scope", "").split() or not asked.get("state"):
            return 400, f"{wrong or 'scope or state'} does not fit"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": self.issuer}
        return 302, f"{asked['redirect_uri']}?{urlencode(answer)}"

    def token(self, asked: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if asked.get("client_id") != CLIENT_ID:
            return 401, {"error": "invalid_client"}
        if asked.get("grant_type") == DEVICE_GRANT:
            return self._device_token(asked.get("device_code", ""))
        login = self.codes.pop(asked.get("code", ""), None)
        if login is None or login["redirect_uri"] != asked.get("redirect_uri"):
            return 400, {"error": "invalid_grant", "error_description": "no such code"}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(asked.get("code_verifier", "").encode()).digest())
        if challenge.rstrip(b"=").decode() != login["code_challenge"]:
            return 400, {"error": "invalid_grant", "error_description": "the verifier does not fit"}
        return 200, self._tokens(login.get("nonce"))

    def device(self, asked: dict[str, str]) -> dict[str, Any]:
        code = secrets.token_urlsafe(16)
        self.devices[code] = (asked.get("nonce", ""), False)
        return {
            "device_code": code,
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{self.issuer}/confirm",
            "verification_uri_complete": f"{self.issuer}/confirm?user_code=WDJB-MJHT",
            "expires_in": 60,
            "interval": 0,
        }

    def confirm(self) -> None:
        """The person has typed the code, on whatever screen."""
        self.devices = {code: (nonce, True) for code, (nonce, _) in self.devices.items()}

    def _device_token(self, code: str) -> tuple[int, dict[str, Any]]:
        if code not in self.devices:
            return 400, {"error": "expired_token"}
        nonce, confirmed = self.devices[code]
        if not confirmed:
            return 400, {"error": "authorization_pending"}
        del self.devices[code]
        return 200, self._tokens(nonce if self.binds_devices else None)

    def _tokens(self, nonce: str | None) -> dict[str, Any]:
        return {
            "access_token": secrets.token_urlsafe(16),
            "token_type": "Bearer",
            "expires_in": 300,
            "id_token": self.id_token(nonce),
        }


@contextlib.contextmanager
def serving() -> Iterator[Provider]:
    """Serves a provider on loopback while the body runs."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            match parts.path:
                case "/.well-known/openid-configuration":
                    self._answer(200, provider.discovery())
                case "/jwks":
                    provider.jwks_served += 1
                    self._answer(200, provider.jwks())
                case "/authorize":
                    status, told = provider.authorize(asked)
                    self._answer(status, {"told": told}, told if status == 302 else None)
                case "/confirm":
                    provider.confirm()
                    self._answer(200, {"confirmed": asked})
                case _:
                    self._answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked = {name: values[0] for name, values in parse_qs(body).items()}
            match urlsplit(self.path).path:
                case "/token":
                    self._answer(*provider.token(asked))
                case "/device" if provider.with_device_grant:
                    self._answer(200, provider.device(asked))
                case _:
                    self._answer(404, {})

        def _answer(self, status: int, document: dict[str, Any], location: str | None = None) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            if location is not None:
                self.send_header("Location", location)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

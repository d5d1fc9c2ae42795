"""ID tokens of a provider that others have written: RS256, and a key without an id."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from telltale.errors import Unauthenticated
from telltale.identity.keys import new_key
from telltale.identity.person import nonce_of
from tests.certs.people.test_logins import authority
from tests.support.domain import free_port
from tests.support.provider import CLIENT_ID, Provider

_PATIENCE_SECONDS = 60.0
CLAIMS = {"sub": "u-1", "preferred_username": "alice", "groups": ["/mesh/operators", "/everybody"]}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    port = free_port()
    program = Path(sys.executable).with_name("oidc-provider-mock")
    words = [str(program), "--port", str(port), "--user-claims", json.dumps(CLAIMS)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the provider does not serve")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_PATIENCE_SECONDS)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def logged_in(issuer: str, nonce: str) -> str:
    """An ID token by authorization code. This provider knows no public clients: the secret is any."""
    back = "http://127.0.0.1:1/login"
    asked = {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": back,
        "scope": "openid profile",
        "nonce": nonce,
    }
    answer = httpx.post(f"{issuer}/oauth2/authorize", params=asked, data={"sub": "u-1"})
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    given = httpx.post(
        f"{issuer}/oauth2/token",
        data={"grant_type": "authorization_code", "code": code, "redirect_uri": back},
        auth=(CLIENT_ID, "any"),
    )
    token = given.json()["id_token"]
    assert isinstance(token, str)
    return token


async def test_a_login_elsewhere_is_a_session_here(issuer: str, tmp_path: Path) -> None:
    key = new_key()
    token = logged_in(issuer, nonce_of(key.public_key()))
    other = logged_in(issuer, nonce_of(new_key().public_key()))
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token)
    async with authority(tmp_path, Provider(issuer=issuer)) as running:
        session = await running.exchange(token, key)
        with pytest.raises(Unauthenticated, match="another device's key"):
            await running.exchange(other, key)
    assert session.credentials.spiffe_id.path == "/person/alice"
    assert session.groups == ("responders",)

"""`telltale login` with a real provider and a real authority: what a person gets, and why not."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import jwt
import pytest

from certs.serve import AuthorityAddress, AuthoritySettings, serving_authority
from telltale.cli import login as command
from telltale.cli.credentials import credentials
from telltale.cli.home import Home
from telltale.cli.logins import Login, acting, chosen, held
from telltale.errors import (
    InvalidInput,
    NotFound,
    Precondition,
    TelltaleError,
    Unauthenticated,
    Unavailable,
)
from telltale.identity.credentials import Credentials
from tests.support.domain import free_port
from tests.support.mesh import Mesh
from tests.support.provider import CLIENT_ID, Provider, serving


@dataclass
class Running:
    """An authority, its provider, and a person's machine that knows neither."""

    mesh: Mesh
    provider: Provider
    address: str
    home: Home
    capsys: pytest.CaptureFixture[str]

    async def login(self, *, browser: Callable[[str], None], device: bool = False, **where: Any) -> Any:
        """Logs in with something that reads what is shown, as a person does."""
        where = {"address": self.address, "root": self.mesh.home.root_sha256(), "gateway": "", **where}
        logging_in = asyncio.create_task(command.login(self.home, **where, device=device, as_json=True))
        shown = ""
        while not logging_in.done():
            await asyncio.sleep(0.01)
            shown += self.capsys.readouterr().err
            urls = [word for word in shown.split() if word.startswith("http")]
            if urls:
                await asyncio.to_thread(browser, urls[0])
                break
        await logging_in
        out = self.capsys.readouterr().out
        return json.loads(out[out.index("{\n") :])


def read(issued: dict[str, str], kind: str) -> str:
    return Path(issued[kind]).read_text()


def nobody_listens(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.ConnectError:
        return True
    return False


def confirm(url: str) -> None:
    """Types the code in, on whatever device."""
    assert httpx.get(url).status_code == 200


def browser(url: str) -> None:
    """Follows where it is led, as browsers do."""
    answer = httpx.get(url, follow_redirects=True)
    assert "Go back to the terminal" in answer.text, answer.text


@asynccontextmanager
async def authority(
    directory: Path, provider: Provider, gateway: str, known: Mesh | None = None
) -> AsyncIterator[tuple[Mesh, str]]:
    mesh = known or Mesh.create(directory / "mesh", "operators", "servers", "platform")
    people = directory / "people.json"
    settings = {
        "issuer": provider.issuer,
        "client_id": CLIENT_ID,
        "jwks": f"{provider.issuer}/jwks",
        "groups": {"/mesh/operators": "responders", "/mesh/visitors": "visitors"},
    }
    people.write_text(json.dumps({"provider": settings}))
    address = AuthorityAddress(
        directory=mesh.home.authority("operators"),
        listen="127.0.0.1:0",
        enrollment="127.0.0.1:0",
        gateway_address=gateway,
        people=people,
    )
    serving = AuthoritySettings(
        authorities=(address,), trust=mesh.home.trust, enrollments_per_second_and_address=100
    )
    async with serving_authority(address, serving) as (_, enrollment):
        yield mesh, f"127.0.0.1:{enrollment}"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


@pytest.fixture
async def running(
    tmp_path: Path,
    provider: Provider,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Running]:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    async with authority(tmp_path, provider, "192.0.2.1:7443") as (mesh, address):
        yield Running(mesh, provider, address, Home.at(tmp_path / "laptop"), capsys)


async def test_a_login_leaves_all_that_commands_need_and_nothing_that_others_can_read(
    running: Running,
) -> None:
    issued = await running.login(browser=browser)
    assert issued["spiffe_id"] == "spiffe://operators.telltale.test/person/alice"
    assert issued["groups"] == ["responders"]
    directory = running.home.logins / "alice"
    for path in running.home.path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    held = Credentials.load(directory)
    assert held is not None
    assert held.chain_pem.decode() == read(issued, "certificate")
    async with acting(running.home) as (mesh, me):
        assert mesh.gateway == "192.0.2.1:7443"
        assert me.credentials.certificates == held.certificates
        claims = jwt.decode(await me.token("servers.telltale.test"), options={"verify_signature": False})
    assert claims["groups"] == ["responders"]


async def test_a_device_without_a_browser_logs_in_with_a_code(running: Running) -> None:
    issued = await running.login(browser=confirm, device=True)
    assert issued["spiffe_id"].endswith("/person/alice")


async def test_a_provider_that_does_not_bind_devices_is_told_from_one_that_does(running: Running) -> None:
    running.provider.binds_devices = False
    with pytest.raises(Unauthenticated, match='missing the "nonce" claim'):
        await running.login(browser=confirm, device=True)
    running.provider.with_device_grant = False
    with pytest.raises(Precondition, match="log in without `--device`"):
        await running.login(browser=browser, device=True)


async def test_the_second_login_needs_no_address_and_a_logout_leaves_nothing_of_the_person(
    running: Running,
) -> None:
    first = await running.login(browser=browser)
    key = read(first, "key")
    second = await running.login(browser=browser, address=None, root=None)
    assert read(second, "key") != key
    await command.logout(running.home)
    assert chosen(running.home) is None
    assert not (running.home.logins / "alice").exists()
    with pytest.raises(NotFound, match="nobody has logged in here"):
        await command.logout(running.home)
    with pytest.raises(Precondition, match="no mesh runs"):
        async with acting(running.home):
            pass


async def test_a_logout_ends_the_session_for_whoever_has_copied_its_files(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    await running.login(browser=browser)
    directory = running.home.logins / "alice"
    copy = held(directory, Login.load(directory))
    assert await copy.token("servers.telltale.test")
    await command.logout(running.home)
    assert "its session is ended at the authority too" in capsys.readouterr().err
    for use in (
        copy._issuer.renew(copy.credentials),
        copy._issuer.token(copy.credentials, ["a.telltale.test"]),
    ):
        with pytest.raises(Unauthenticated, match="there is no session of"):
            await use


async def test_a_logout_without_the_authority_removes_the_key_and_says_what_goes_on(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    await running.login(browser=browser)
    directory = running.home.logins / "alice"
    nobody = f"127.0.0.1:{free_port()}"
    replace(Login.load(directory), authority=nobody).save(directory)
    await command.logout(running.home)
    said = capsys.readouterr().err
    assert not directory.exists()
    assert "the authority was not told" in said and nobody in said and "until its end" in said


async def test_of_several_people_one_is_named(running: Running) -> None:
    await running.login(browser=browser)
    running.provider.person = {"sub": "u-2", "preferred_username": "bob", "groups": ["/mesh/operators"]}
    await running.login(browser=browser)
    with pytest.raises(Precondition, match="choose with `--as`: alice, bob"):
        chosen(running.home)
    assert chosen(Home(running.home.path, "bob")) == "bob"
    with pytest.raises(NotFound, match="'carol' has not logged in here"):
        chosen(Home(running.home.path, "carol"))
    await command.logout(Home(running.home.path, "bob"))
    assert chosen(running.home) == "alice"


async def test_credentials_without_a_name_are_the_persons_with_a_fresh_token(running: Running) -> None:
    issued = await running.login(browser=browser)
    token = read(issued, "token")
    await credentials(running.home, None, as_json=True)
    out = running.capsys.readouterr().out
    again = json.loads(out[out.index("{\n") :])
    assert again["spiffe_id"] == issued["spiffe_id"]
    assert again["groups"] == ["responders"]
    assert read(again, "token") != token
    assert read(again, "certificate") == read(issued, "certificate")


async def test_a_session_that_has_ended_says_so(running: Running) -> None:
    await running.login(browser=browser)
    directory = running.home.logins / "alice"
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    told = {**json.loads((directory / "login.json").read_text()), "ends": past}
    (directory / "login.json").write_text(json.dumps(told))
    assert Login.load(directory).ends == past
    with pytest.raises(Unauthenticated, match=r"the session of alice ended at .*; log in again"):
        async with acting(running.home):
            pass


async def test_a_root_that_nobody_named_and_an_address_of_others_are_refused(running: Running) -> None:
    with pytest.raises(Unauthenticated, match="shows no root certificate"):
        await running.login(browser=browser, root="00" * 32)
    with pytest.raises(InvalidInput, match="needs `--root`"):
        await running.login(browser=browser, root=None)
    with pytest.raises(InvalidInput, match="copy the 64 digits"):
        await running.login(browser=browser, root="00")
    with pytest.raises(Precondition, match="this machine knows no mesh"):
        await running.login(browser=browser, address=None, root=None)
    address = AuthorityAddress(
        directory=running.mesh.home.authority("servers"), listen="127.0.0.1:0", enrollment="127.0.0.1:0"
    )
    async with serving_authority(address, AuthoritySettings(authorities=(address,))) as (_, enrollment):
        with pytest.raises(Unauthenticated, match=r"is not where operators enrol but authority\.servers"):
            await running.login(browser=browser, address=f"127.0.0.1:{enrollment}")
    assert not running.home.path.exists()


async def test_who_is_in_no_group_is_refused_and_nothing_is_kept(running: Running) -> None:
    running.provider.person["groups"] = ["/everybody"]
    with pytest.raises(Unauthenticated, match="in no group that this mesh knows"):
        await running.login(browser=browser)
    assert not running.home.path.exists()


async def test_an_answer_to_another_question_is_not_taken_and_the_right_one_is(
    running: Running,
) -> None:
    seen = []

    def careful(url: str) -> None:
        redirect = parse_qs(urlsplit(url).query)["redirect_uri"][0]
        for wrong in (
            redirect,
            f"{redirect}?code=x&state=y",
            f"{redirect}?{urlencode({'code': 'x', 'state': ['a', 'b']}, doseq=True)}",
            redirect.replace("/login", "/other"),
        ):
            seen.append(httpx.get(wrong).status_code)
        seen.append(httpx.post(redirect).status_code)
        browser(url)

    assert (await running.login(browser=careful))["spiffe_id"].endswith("/person/alice")
    assert seen == [400, 400, 400, 404, 404]


async def test_the_port_on_loopback_is_gone_after_the_login(running: Running) -> None:
    redirects = []

    def remembering(url: str) -> None:
        redirects.append(parse_qs(urlsplit(url).query)["redirect_uri"][0])
        browser(url)

    await running.login(browser=remembering)
    assert nobody_listens(redirects[0])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"error": "access_denied", "error_description": "not today"}, "refuses the login: not today"),
        ({"error": "access_denied"}, "refuses the login: access_denied"),
        ({"code": "x", "iss": "https://elsewhere.example.org"}, "the answer is of 'https://elsewhere"),
        ({"code": "x"}, "refuses the login: no such code"),
    ],
)
async def test_what_the_provider_refuses_is_told(
    running: Running, answer: dict[str, str], reason: str
) -> None:
    def refusing(url: str) -> None:
        asked = parse_qs(urlsplit(url).query)
        httpx.get(asked["redirect_uri"][0], params={"state": asked["state"][0], **answer})

    with pytest.raises(Unauthenticated, match=reason):
        await running.login(browser=refusing)


@pytest.mark.parametrize(
    ("told", "error", "reason"),
    [
        ({"issuer": "https://elsewhere.example.org"}, Unavailable, "the mesh means"),
        ({"authorization_endpoint": "http://elsewhere.example.org/"}, Unavailable, "no https:// address"),
        ({"authorization_endpoint": None}, Unavailable, "no https:// address"),
    ],
)
async def test_a_provider_that_describes_itself_wrongly_gets_no_login(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[str, Any],
    error: type[TelltaleError],
    reason: str,
) -> None:
    honest = running.provider.discovery()
    monkeypatch.setattr(running.provider, "discovery", lambda: {**honest, **told})
    with pytest.raises(error, match=reason):
        await running.login(browser=browser)


async def test_a_provider_that_is_away_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as gone:
        pass
    async with authority(tmp_path, gone, "192.0.2.1:7443") as (mesh, address):
        running = Running(mesh, gone, address, Home.at(tmp_path / "laptop"), capsys)
        with pytest.raises(Unavailable, match=f"{gone.issuer} does not answer"):
            await running.login(browser=browser)

"""`telltale login` and `telltale logout`: a person's session on this machine."""

import asyncio
import json
import os
import shutil
import sys
import webbrowser
from dataclasses import asdict, dataclass
from pathlib import Path

from telltale.cli import logins, show
from telltale.cli.credentials import files_of, write_files
from telltale.cli.home import Home, private_directory
from telltale.cli.provider import Confirmation, OpenId, client
from telltale.errors import (
    ConfigurationError,
    InvalidInput,
    NotFound,
    Precondition,
    TelltaleError,
    Unauthenticated,
)
from telltale.identity.keys import new_key, write_secret
from telltale.identity.newcomer import checked_address, known_address
from telltale.identity.person import PersonSession, described, end_session, exchanged, nonce_of
from telltale.identity.presented import presented_authority
from telltale.identity.trust import ROOT_FILE, Trust
from telltale.naming import OPERATORS, server_name, trust_domain

_SHA256_BYTES = 32
_PLACE = "place.json"


@dataclass(frozen=True)
class Place:
    """Where people of a mesh log in, and by which root it proves itself."""

    mesh: str
    # host:port of enrolment of the operators' authority, and of the gateway where this machine knows it.
    enrollment: str
    gateway: str
    root_pem: str

    @property
    def trust(self) -> Trust:
        return Trust(self.mesh, self.root_pem.encode())


async def login(
    home: Home, address: str | None, root: str | None, *, gateway: str, device: bool, as_json: bool
) -> None:
    """Logs a person in at the mesh's provider, and keeps the session in the home."""
    place = await _place(home, address, root)
    trust, key = place.trust, new_key()
    provider = await described(trust, place.enrollment)
    nonce = nonce_of(key.public_key())
    async with client() as http:
        openid = OpenId(provider, http)
        id_token = await (openid.by_device(nonce, _say_code) if device else openid.by_browser(nonce, _open))
    session = await exchanged(trust, place.enrollment, id_token, key)
    name = session.credentials.spiffe_id.path.rpartition("/")[2]
    known = logins.Login(
        name=name,
        mesh=place.mesh,
        gateway=known_address("gateway", gateway or place.gateway or session.gateway),
        authority=known_address("authority", session.authority, "its operators have to tell it"),
        enrollment=place.enrollment,
        trust_domains=session.trust_domains,
        ends=session.ends.isoformat(),
    )
    directory = home.logins / name
    await asyncio.to_thread(_keep, home, directory, place, known, session)
    issued = {
        "spiffe_id": str(session.credentials.spiffe_id),
        "groups": list(session.groups),
        "ends": session.ends.isoformat().replace("+00:00", "Z"),
        **files_of(directory, known.gateway),
    }
    if as_json:
        show.document(issued)
    else:
        show.mapping(issued)


async def logout(home: Home) -> None:
    """Ends the session of a person at the authority, if that answers, and removes it from this machine."""
    name = await asyncio.to_thread(logins.chosen, home)
    if name is None:
        raise NotFound("nobody has logged in here")
    directory = home.logins / name
    try:
        login = await asyncio.to_thread(logins.Login.load, directory)
        me = await asyncio.to_thread(logins.held, directory, login)
        await end_session(me.trust, login.authority, me.credentials)
        there = "its session is ended at the authority too"
    except (TelltaleError, OSError) as failed:
        # Its key goes all the same: that is what was asked for.
        why = show.printable(str(failed))
        there = f"the authority was not told ({why}) and keeps the session until its end"
    await asyncio.to_thread(shutil.rmtree, directory)
    gone = "the key is gone from this machine, the last token ends within 15 minutes"
    sys.stderr.write(f"{name} has logged out: {gone}, and {there}\n")


async def _place(home: Home, address: str | None, root: str | None) -> Place:
    """Where to log in: at the address given, in the mesh of this home, or where somebody did before."""
    if address is not None:
        if root is None:
            raise InvalidInput("the first login at an address needs `--root`, the SHA-256 of the mesh's root")
        return await _presented(checked_address(address), _sha256(root))
    try:
        mesh = await asyncio.to_thread(home.mesh)
    except Precondition:
        return await asyncio.to_thread(_remembered, home)
    root_pem = await asyncio.to_thread((home.trust / ROOT_FILE).read_text)
    return Place(mesh.name, mesh.enrollment, mesh.gateway, root_pem)


async def _presented(address: str, sha256: bytes) -> Place:
    root_pem, names = await presented_authority(address, sha256)
    prefix = server_name("authority", trust_domain(OPERATORS, ""))
    meshes = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    if len(meshes) != 1:
        raise Unauthenticated(
            f"{address} is not where operators enrol but {', '.join(names) or 'nobody'}; ask for that address"
        )
    return Place(meshes[0], address, "", root_pem.decode())


def _remembered(home: Home) -> Place:
    path = home.logins / _PLACE
    try:
        return Place(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise Precondition(
            "this machine knows no mesh: log in with `telltale login ADDRESS --root SHA256`, as your mesh's "
            "operators told you"
        ) from None
    except (OSError, ValueError, TypeError) as broken:
        raise ConfigurationError(f"{path} is damaged; give ADDRESS and --root again") from broken


def _keep(home: Home, directory: Path, place: Place, known: logins.Login, session: PersonSession) -> None:
    for path in (home.path, home.logins, directory):
        private_directory(path)
    write_secret(home.logins / _PLACE, json.dumps(asdict(place), indent=2).encode() + b"\n")
    root_pem = place.root_pem.encode()
    write_files(directory, session.credentials, root_pem, session.token.text)
    session.credentials.save(directory)
    known.save(directory)


async def _open(url: str) -> None:
    """Shows the address, and a browser where there is a screen for one."""
    sys.stderr.write(f"Log in with your browser:\n\n  {show.printable(url)}\n\n")
    if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys():
        try:
            await asyncio.to_thread(webbrowser.open, url)
        except (webbrowser.Error, OSError):
            sys.stderr.write("No browser starts here; copy the address into one of this machine.\n")


async def _say_code(confirmation: Confirmation) -> None:
    where = show.printable(confirmation.direct or confirmation.url)
    code = show.printable(confirmation.code)
    sys.stderr.write(f"Open on any device, and confirm the code {code}:\n\n  {where}\n\n")


def _sha256(root: str) -> bytes:
    try:
        sha256 = bytes.fromhex(root)
    except ValueError:
        sha256 = b""
    if len(sha256) != _SHA256_BYTES:
        raise InvalidInput(
            f"{root[:80]!r} is no SHA-256; copy the 64 digits that your mesh's operators told you"
        )
    return sha256

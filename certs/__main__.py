"""`python -m certs`: makes a mesh's authorities, prints join tokens, and serves."""

import argparse
import json
import sys
from pathlib import Path

from certs.home import Home
from certs.issuing import IssuingAuthority
from certs.ledger import Ledger
from certs.profiles import Profile
from certs.serve import AuthoritySettings, serve
from telltale.errors import InvalidInput, TelltaleError
from telltale.naming import SpiffeId
from telltale.process import run
from telltale.settings import describe


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; an error is one line that says what to do."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "init":
                _init(options)
            case "join-token":
                _join_token(options)
            case "serve":
                settings = AuthoritySettings.read()
                run(lambda stopping: serve(settings, stopping))
    except TelltaleError as wrong:
        print(f"certs: {wrong}", file=sys.stderr)
        return 2 if options.command == "serve" else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m certs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    init = commands.add_parser(
        "init", help="make the root, the authorities and the trust bundle; safe to repeat"
    )
    init.add_argument("--home", type=Path, required=True, help="directory for root/, authorities/ and trust/")
    init.add_argument("--mesh", default="telltale.internal", help="name of the mesh (%(default)s)")
    init.add_argument(
        "--domains", nargs="+", required=True, help="domains, such as servers platform operators"
    )

    join = commands.add_parser("join-token", help="print a single-use join token, valid for 10 minutes")
    join.add_argument("--home", type=Path, required=True, help="the directory of `init`")
    join.add_argument("--domain", required=True, help="the domain that the workload belongs to")
    join.add_argument("--path", required=True, help="path of its SPIFFE ID, such as /agent/web1")
    join.add_argument("--dns", action="append", default=[], help="server name that it proves; servers only")
    join.add_argument("--json", action="store_true", help="print all of it as JSON")

    commands.add_parser(
        "serve",
        help="serve the authorities",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Configured by environment variables:\n{describe(AuthoritySettings)}",
    )
    return parser


def _init(options: argparse.Namespace) -> None:
    home = Home(options.home)
    added = home.init(options.mesh, options.domains)
    print(f"root SHA-256 {home.root_sha256()}")
    for domain in options.domains:
        print(f"{domain}: {'made' if domain in added else 'already there'} in {home.authority(domain)}")
    if added:
        print(f"{home.root} signs new authorities only; keep it off this machine until you add a domain")


def _join_token(options: argparse.Namespace) -> None:
    home = Home(options.home)
    authority = IssuingAuthority.load(home.authority(options.domain))
    spiffe_id = SpiffeId.parse(f"spiffe://{authority.trust_domain}{options.path}")
    if spiffe_id == authority.spiffe_id:
        raise InvalidInput(f"{spiffe_id} is the authority itself; choose another path")
    profile = Profile(spiffe_id, tuple(options.dns))
    authority.check(profile)
    granted = Ledger(home.authority(options.domain)).grant(profile)
    facts = {
        "token": str(granted.token),
        "spiffe_id": str(spiffe_id),
        "dns_names": list(profile.dns_names),
        "root_sha256": home.root_sha256(),
        "expire_time": granted.expires.isoformat(),
    }
    if options.json:
        print(json.dumps(facts))
        return
    # The token alone on the standard output, so that it can go into a file as it is.
    print(granted.token)
    print(
        f"for {spiffe_id}, once, until {granted.expires:%H:%M:%S} UTC; root SHA-256 {facts['root_sha256']}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    raise SystemExit(main())

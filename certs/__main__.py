"""`python -m certs`: makes a mesh's authorities, renews them, prints join tokens, and serves."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from certs.distrusts import CONSOLE, Distrusts
from certs.home import Home, Renewal
from certs.issuing import IssuingAuthority
from certs.ledger import Ledger, NewJoinToken
from certs.people.record import PeopleRecord
from certs.profiles import ISSUING_LIFE, ROOT_LIFE, Profile
from certs.serve import AuthoritySettings, serve
from telltale.errors import InvalidInput, TelltaleError
from telltale.identity.distrust_lists import moment
from telltale.identity.tokens import MOST_GROUPS
from telltale.naming import OPERATORS, SpiffeId, check_group
from telltale.process import run
from telltale.settings import describe


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; an error is one line that says what to do."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "init":
                _init(options)
            case "renew":
                _renew(options)
            case "add-root":
                _add_root(options)
            case "retire-root":
                Home(options.home).retire_root(options.sha256)
            case "join-token":
                _join_token(options)
            case "join-tokens":
                _join_tokens(options)
            case "forget-person":
                directory = Home(options.home).authority(OPERATORS)
                PeopleRecord(directory).forget(options.name)
                print(f"the name {options.name} is free")
            case "distrust":
                _distrust(options)
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
    init.add_argument("--renew", action="store_true", help="renew what is due, if the root key is there")
    _life(init, "--root-seconds", ROOT_LIFE, "the root, if it is made")
    _life(init, "--issuing-seconds", ISSUING_LIFE, "issuing certificates")

    renew = commands.add_parser(
        "renew",
        help="give authorities past half of their life a new key, certificate and token key; safe to repeat",
    )
    renew.add_argument("--home", type=Path, required=True, help="the directory of `init`, with the root key")
    renew.add_argument("--domain", action="append", default=[], help="only this domain; may be repeated")
    renew.add_argument("--now", action="store_true", help="whether or not half of the life is over")
    _life(renew, "--issuing-seconds", ISSUING_LIFE, "issuing certificates")

    add_root = commands.add_parser(
        "add-root", help="make a new root beside those before; authorities stand on it once they are renewed"
    )
    add_root.add_argument("--home", type=Path, required=True, help="the directory of `init`")
    _life(add_root, "--root-seconds", ROOT_LIFE, "the root")

    retire_root = commands.add_parser("retire-root", help="take a root out of the trust bundle")
    retire_root.add_argument("--home", type=Path, required=True, help="the directory of `init`")
    retire_root.add_argument("sha256", help="SHA-256 of the root's certificate")

    join = commands.add_parser("join-token", help="print a single-use join token, valid for 10 minutes")
    join.add_argument("--home", type=Path, required=True, help="the directory of `init`")
    join.add_argument("--domain", required=True, help="the domain that the workload belongs to")
    join.add_argument("--path", required=True, help="path of its SPIFFE ID, such as /agent/web1")
    join.add_argument("--dns", action="append", default=[], help="server name that it proves; servers only")
    join.add_argument("--group", action="append", default=[], help="policy group that it is in; repeatable")
    join.add_argument("--json", action="store_true", help="print all of it as JSON")

    several = commands.add_parser(
        "join-tokens",
        help="read `domain path [server name ...] [+group ...]` line by line; print a join token for each",
    )
    several.add_argument("--home", type=Path, required=True, help="the directory of `init`")

    forget = commands.add_parser("forget-person", help="free the name of a person who has left")
    forget.add_argument("--home", type=Path, required=True, help="the directory of `init`")
    forget.add_argument("--name", required=True, help="last part of the SPIFFE ID, such as alice")

    distrust = commands.add_parser(
        "distrust", help="say here, where the key lies, that an identity is not to be believed, or lift that"
    )
    distrust.add_argument("spiffe_id", metavar="SPIFFE-ID", help="whom")
    distrust.add_argument("--home", type=Path, required=True, help="the directory of `init`")
    distrust.add_argument("--since", help="since when: a time, or a span such as 2h; now if not said")
    distrust.add_argument("--reason", default="", help="why, for everybody in the mesh to read")
    distrust.add_argument("--lift", action="store_true", help="believe it again, with keys that are new")

    commands.add_parser(
        "serve",
        help="serve the authorities",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Configured by environment variables:\n{describe(AuthoritySettings)}",
    )
    return parser


def _life(parser: argparse.ArgumentParser, option: str, life: timedelta, what: str) -> None:
    seconds = int(life.total_seconds())
    parser.add_argument(option, type=_seconds, default=life, help=f"life of {what} (default {seconds})")


def _seconds(text: str) -> timedelta:
    seconds = int(text)
    # Leaves live for at least 2 seconds, and only half of an authority's life is for issuing.
    if not 10 <= seconds <= 100 * 365 * 24 * 3600:
        raise argparse.ArgumentTypeError(f"{text} is no life; give seconds, 10 at least")
    return timedelta(seconds=seconds)


def _init(options: argparse.Namespace) -> None:
    home = Home(options.home)
    lives = {"root_life": options.root_seconds, "issuing_life": options.issuing_seconds}
    added = home.init(options.mesh, options.domains, **lives)
    print(f"root SHA-256 {home.root_sha256()}")
    for domain in options.domains:
        print(f"{domain}: {'made' if domain in added else 'already there'} in {home.authority(domain)}")
    if added:
        print(f"{home.root} signs authorities only; keep it off this machine until you add or renew one")
    if options.renew and home.root_key_is_here():
        _tell(home.renew(options.domains, issuing_life=options.issuing_seconds))


def _renew(options: argparse.Namespace) -> None:
    _tell(Home(options.home).renew(options.domain, now=options.now, issuing_life=options.issuing_seconds))


def _tell(renewals: Sequence[Renewal]) -> None:
    for one in renewals:
        done = "renewed" if one.renewed else "not due"
        ends = f"{one.issuing.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
        print(f"{one.domain}: {done}; its certificate ends at {ends}")
        if one.renewed and not one.token_key:
            print(f"{one.domain}: its next token key is published now, and signs from the next renewal on")


def _add_root(options: argparse.Namespace) -> None:
    home = Home(options.home)
    home.add_root(options.root_seconds)
    print(f"root SHA-256 {home.root_sha256()}")
    print(f"bring {home.trust} to every process, and then renew with `certs renew --now`")


def _join_token(options: argparse.Namespace) -> None:
    home = Home(options.home)
    authority = IssuingAuthority.load(home.authority(options.domain))
    profile, granted = _grant(home, options.domain, options.path, options.dns, options.group)
    facts = {
        "token": str(granted.token),
        "spiffe_id": str(profile.spiffe_id),
        "dns_names": list(profile.dns_names),
        "root_sha256": authority.root_sha256.hex(),
        "expire_time": granted.expires.isoformat(),
    }
    if options.json:
        print(json.dumps(facts))
        return
    # The token alone on the standard output, so that it can go into a file as it is.
    print(granted.token)
    until = f"{granted.expires:%H:%M:%S} UTC"
    root = facts["root_sha256"]
    print(f"for {profile.spiffe_id}, once, until {until}; root SHA-256 {root}", file=sys.stderr)


def _join_tokens(options: argparse.Namespace) -> None:
    home = Home(options.home)
    for line in sys.stdin:
        match line.split():
            case [domain, path, *names]:
                dns = [name for name in names if not name.startswith("+")]
                groups = [name.removeprefix("+") for name in names if name.startswith("+")]
                print(_grant(home, domain, path, dns, groups)[1].token)
            case _:
                raise InvalidInput(
                    f"{line.strip()!r} is not of the form `domain path [server name ...] [+group ...]`"
                )


def _distrust(options: argparse.Namespace) -> None:
    home = Home(options.home)
    spiffe_id = SpiffeId.parse(options.spiffe_id)
    label = spiffe_id.trust_domain.partition(".")[0].replace("-", "_")
    directory = home.authority(label)
    words = Distrusts(Ledger(directory).state, IssuingAuthority.load(directory).trust_domain)
    if options.lift:
        entry = words.lift(spiffe_id)
        print(f"{entry.spiffe_id} is believed again with keys enrolled since {entry.until:%H:%M:%S} UTC")
        return
    since = None if options.since is None else moment(options.since)
    entry = words.distrust(spiffe_id, since, options.reason, CONSOLE)
    print(f"{entry}; a running authority tells it within a second")


def _grant(
    home: Home, domain: str, path: str, dns: Sequence[str], groups: Sequence[str] = ()
) -> tuple[Profile, NewJoinToken]:
    if len(set(groups)) > MOST_GROUPS:
        raise InvalidInput(f"{len(groups)} groups are too many; {MOST_GROUPS} are the most")
    authority = IssuingAuthority.load(home.authority(domain))
    spiffe_id = SpiffeId.parse(f"spiffe://{authority.trust_domain}{path}")
    profile = Profile(spiffe_id, tuple(dns))
    authority.check_newcomer(profile)
    wanted = [check_group(group) for group in groups]
    return profile, Ledger(home.authority(domain)).grant(profile, groups=wanted, console=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""The command `telltale`: its options, and the one place where errors become a line and an exit code.

Every command imports what it needs when it runs, so that `telltale --help` answers at once.
"""

import asyncio
import ipaddress
import logging
import os
import resource
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click

from telltale.cli.home import DEFAULT, Home
from telltale.errors import TelltaleError
from telltale.naming import RESPONDERS

FAILED = 1
MISUSED = 2
INTERRUPTED = 130

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")


class Seconds(click.ParamType[float]):
    """A span such as `30s`, `5m`, `1h` or a number of seconds."""

    name = "duration"
    _LENGTHS = {"s": 1.0, "m": 60.0, "h": 3600.0}  # noqa: RUF012 -- a constant of the type

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        length = self._LENGTHS.get(value[-1:], 1.0)
        number = value[:-1] if value[-1:] in self._LENGTHS else value
        try:
            seconds = float(number) * length
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 10**9:
            self.fail(f"{value!r} is no duration; write 30s, 5m or 1h", param, ctx)
        return seconds


class Address(click.ParamType[str]):
    """An IPv4 address that can be dialled."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            address = ipaddress.IPv4Address(value)
        except ValueError:
            address = ipaddress.IPv4Address(0)
        if address.is_unspecified or address.is_multicast:
            self.fail(f"{value!r} is no IPv4 address that others could dial", param, ctx)
        return str(address)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT,
    envvar="TELLTALE_HOME",
    show_default=True,
    show_envvar=True,
    help="Directory of the mesh on this machine.",
)
@click.option(
    "--as", "person", default="", help="Who acts, of those who have logged in here; the only one by default."
)
@click.version_option(package_name="telltale", message="telltale %(version)s")
@click.pass_context
def cli(context: click.Context, home: Path, person: str) -> None:
    """Infrastructure monitoring that holds no keys: run the mesh, look at its data products."""
    context.obj = replace(Home.at(home), person=person)


@cli.command()
@click.option("--for", "seconds", type=Seconds(), help="Stop after this time and print a summary.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=7443, show_default=True, help="Port of the gateway."
)
@click.option(
    "--address",
    type=Address(),
    default="127.0.0.1",
    show_default=True,
    help="IPv4 address of this machine to listen on; hosts that shall join need to reach it.",
)
@click.option(
    "--people",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file by which people log in.",
)
@as_json
@click.pass_obj
def up(
    home: Home, seconds: float | None, port: int, address: str, people: Path | None, as_json: bool
) -> None:
    """Run the mesh on this machine until Ctrl-C."""
    from telltale.cli import up as command

    people = people.absolute() if people is not None else None
    _run(command.up(home, address=address, port=port, people=people, seconds=seconds, as_json=as_json))


@cli.command()
@as_json
@click.pass_obj
def status(home: Home, as_json: bool) -> None:
    """Show whether the mesh runs, and how each product stands."""
    from telltale.cli import status as command

    _run(command.status(home, as_json=as_json))


@cli.command()
@as_json
@click.pass_obj
def products(home: Home, as_json: bool) -> None:
    """List the data products of the mesh."""
    from telltale.cli import products as command

    _run(command.products(home, as_json=as_json))


@cli.command()
@click.argument("product")
@as_json
@click.pass_obj
def describe(home: Home, product: str, as_json: bool) -> None:
    """Show a product's promise and the meaning of its fields."""
    from telltale.cli import products as command

    _run(command.describe(home, product, as_json=as_json))


@cli.command()
@click.argument("product")
@click.option("--limit", type=click.IntRange(1), help="Stop after this many records.")
@click.option(
    "--earliest", is_flag=True, help="Start with the oldest record that is kept, not with the next."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def tail(home: Home, product: str, limit: int | None, earliest: bool, as_json: bool) -> None:
    """Follow a product's records, verified, as they arrive."""
    from telltale.cli import products as command

    _run(command.tail(home, product, limit=limit, earliest=earliest, as_json=as_json))


@cli.command()
@click.argument("product")
@click.option("--filter", "condition", default="", help='Conditions such as `name = "sshd" AND port < 1024`.')
@as_json
@click.pass_obj
def inventory(home: Home, product: str, condition: str, as_json: bool) -> None:
    """List the current state of an inventory."""
    from telltale.cli import products as command

    _run(command.inventory(home, product, condition=condition, as_json=as_json))


@cli.command()
@click.argument("sql")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most rows to print.")
@click.option("--timeout", type=Seconds(), default="30s", show_default=True, help="Longest time to run.")
@as_json
@click.pass_obj
def query(home: Home, sql: str, limit: int, timeout: float, as_json: bool) -> None:
    """Ask the database in SQL (DuckDB's dialect, read-only); every product is a table."""
    from telltale.cli import history as command

    command.query(home, sql, limit=limit, timeout=timeout, as_json=as_json)


@cli.command()
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Most findings to print."
)
@as_json
@click.pass_obj
def findings(home: Home, limit: int, as_json: bool) -> None:
    """Show what the analysis found, the latest first."""
    from telltale.cli import history as command

    command.findings(home, limit=limit, as_json=as_json)


@cli.command()
@as_json
@click.pass_obj
def governance(home: Home, as_json: bool) -> None:
    """Check every product against the rules of the mesh; exit code 1 when a mandatory one is broken."""
    from telltale.cli import governance as command

    _run(command.governance(home, as_json=as_json))


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--group",
    "groups",
    multiple=True,
    default=[RESPONDERS],
    show_default=True,
    help="Policy group that it is in; may be given several times.",
)
@as_json
@click.pass_obj
def credentials(home: Home, name: str | None, groups: tuple[str, ...], as_json: bool) -> None:
    """Issue an operator's certificate and a fresh token, for grpcurl and programs.

    Without NAME the token is that of the person who has logged in.
    """
    from telltale.cli import credentials as command

    _run(command.credentials(home, name, groups=groups, as_json=as_json))


@cli.command()
@click.argument("address", required=False)
@click.option("--root", help="SHA-256 of the mesh's root certificate, in hexadecimal.")
@click.option("--gateway", default="", help="host:port of the gateway, where the authority does not say so.")
@click.option("--device", is_flag=True, help="Log in on another device, and confirm a code there.")
@as_json
@click.pass_obj
def login(
    home: Home, address: str | None, root: str | None, gateway: str, device: bool, as_json: bool
) -> None:
    """Log in as a person, at the mesh's OpenID Connect provider.

    ADDRESS is where operators enrol; it and --root are needed once on a machine that runs no mesh.
    """
    from telltale.cli import login as command

    _run(command.login(home, address, root, gateway=gateway, device=device, as_json=as_json))


@cli.command()
@click.pass_obj
def logout(home: Home) -> None:
    """End the session of a person on this machine."""
    from telltale.cli import login as command

    _run(command.logout(home))


@cli.group()
def agent() -> None:
    """Bring hosts into the mesh."""


@agent.command("token")
@click.argument("host")
@click.option("--domain", default="servers", show_default=True, help="Domain that the host's agent is of.")
@as_json
@click.pass_obj
def agent_token(home: Home, host: str, domain: str, as_json: bool) -> None:
    """Make a single-use join token for a host, valid for 10 minutes."""
    from telltale.cli import agent as command

    _run(command.token(home, host, domain, as_json=as_json))


@agent.command("join")
@click.argument("address")
@click.option("--token", "token", help="The join token.")
@click.option("--token-file", type=click.File(), help="File with the join token; `-` is the standard input.")
@click.option("--root", required=True, help="SHA-256 of the mesh's root certificate, in hexadecimal.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/telltale-agent"),
    envvar="TELLTALE_STATE",
    show_default=True,
    show_envvar=True,
    help="Directory of the agent: key, certificate, spool.",
)
@click.option("--authority", default="", help="host:port of the authority, where it does not say so itself.")
@click.option("--service", default="", help="host:port of the domain service, likewise.")
@click.option("--run/--no-run", default=True, help="Become the agent, or leave that to the service manager.")
def agent_join(
    address: str,
    token: str | None,
    token_file: IO[str] | None,
    root: str,
    state: Path,
    authority: str,
    service: str,
    run: bool,
) -> None:
    """Join the mesh with this host: enrol at ADDRESS, then run the agent.

    ADDRESS, token and root are what `telltale agent token` printed.
    """
    from telltale.cli import agent as command

    if (token is None) == (token_file is None):
        raise click.UsageError("give either --token or --token-file", click.get_current_context())
    text = token if token is not None else token_file.read() if token_file is not None else ""
    state = state.expanduser().absolute()
    _run(command.join(address, text, root, state, authority=authority, service=service))
    if run:
        command.run(state)


@cli.command()
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path))
@as_json
def spool(place: Path, as_json: bool) -> None:
    """Show what a source has sealed and nobody has acked yet, and what it gave up."""
    from telltale.cli import spool as command

    command.spool(place, as_json=as_json)


@cli.group()
def product() -> None:
    """Work on a data product's contract."""


@product.command("new")
@click.argument("name", metavar="DOMAIN.NAME")
@click.option(
    "--kind",
    type=click.Choice(["samples", "events", "inventory"]),
    default="samples",
    show_default=True,
    help="Shape of the data.",
)
def product_new(name: str, kind: str) -> None:
    """Write the proto, the collector and the test of a new product into this working tree."""
    from telltale.cli import scaffold

    for path in scaffold.new_product(name, kind, Path.cwd()):
        click.echo(path)
    click.echo(scaffold.next_steps(name))


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and ends the process."""
    # Read when gRPC is imported: a server that is not there yet is no reason for its stack traces.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # An operator's key and token are in memory: a crash must not leave them in a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _open_closed_outputs()
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(_exit_code(lambda: _invoke(words)))


def _invoke(words: list[str]) -> None:
    # Not `cli.main`: it takes a closed pipe for a failure.
    with cli.make_context("telltale", list(words)) as context:
        cli.invoke(context)


def _open_closed_outputs() -> None:
    """Whoever closed an output (`>&-`) does not want to read it; everything else goes on as ever."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")


def _exit_code(command: Callable[[], None]) -> int:
    try:
        command()
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        print(asked.format_message(), file=sys.stderr)
        return MISUSED
    except click.UsageError as misuse:
        where = f" (see `{misuse.ctx.command_path} --help`)" if misuse.ctx else ""
        return _say(f"{misuse.format_message()}{where}", MISUSED)
    except click.ClickException as failure:
        return _say(failure.format_message(), FAILED)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough, as `head` does. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TelltaleError as failure:
        return _say(str(failure), FAILED)
    except OSError as refused:
        # A full disk, a directory of somebody else's: nothing that reading the code would explain.
        return _say(": ".join(str(part) for part in (refused.filename, refused.strerror) if part), FAILED)
    except Exception as failure:
        if os.environ.get("TELLTALE_DEBUG"):
            raise
        told = _one_line(failure)
        return _say(f"{told}; this is a defect: set TELLTALE_DEBUG=1 to see where it happened", FAILED)


def _one_line(failure: BaseException) -> str:
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return " ".join(f"{type(failure).__name__}: {failure}".split())


def _say(message: str, code: int) -> int:
    from telltale.cli.show import printable

    # A message may quote what a peer said.
    print(f"telltale: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _run(command: Coroutine[Any, Any, None]) -> None:
    _quieten()
    try:
        asyncio.run(command)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseExceptionGroup as group:
        # A task group wraps the error that ended it; people want the error.
        known = group.subgroup((TelltaleError, OSError, KeyboardInterrupt))
        cause: BaseException = known or group
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        raise cause from group


def _quieten() -> None:
    """Standard output is for what was asked, and an error says better what the libraries would log."""
    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()

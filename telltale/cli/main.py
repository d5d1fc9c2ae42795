"""The command `telltale`: its commands and their options.

Every command imports what it needs when it runs, so that `telltale --help` answers at once.
"""

import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

import click

from telltale.cli import host
from telltale.cli.ending import exit_code, open_closed_outputs, perform
from telltale.cli.home import DEFAULT, Home
from telltale.cli.options import Address, Seconds, as_json
from telltale.naming import RESPONDERS


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
@click.option(
    "--receive",
    "manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with the ports that a receiver binds for devices; there is none without it.",
)
@as_json
@click.pass_obj
def up(
    home: Home,
    seconds: float | None,
    port: int,
    address: str,
    people: Path | None,
    manifest: Path | None,
    as_json: bool,
) -> None:
    """Run the mesh on this machine until Ctrl-C."""
    from telltale.cli import up as command

    people, manifest = (None if file is None else file.absolute() for file in (people, manifest))
    running = command.up(
        home,
        address=address,
        port=port,
        people=people,
        manifest=manifest,
        seconds=seconds,
        as_json=as_json,
    )
    perform(running)


@cli.command()
@as_json
@click.pass_obj
def status(home: Home, as_json: bool) -> None:
    """Show whether the mesh runs, and how each product stands."""
    from telltale.cli import status as command

    perform(command.status(home, as_json=as_json))


@cli.command()
@as_json
@click.pass_obj
def products(home: Home, as_json: bool) -> None:
    """List the data products of the mesh."""
    from telltale.cli import products as command

    perform(command.products(home, as_json=as_json))


@cli.command()
@click.argument("product")
@as_json
@click.pass_obj
def describe(home: Home, product: str, as_json: bool) -> None:
    """Show a product's promise and the meaning of its fields."""
    from telltale.cli import products as command

    perform(command.describe(home, product, as_json=as_json))


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

    perform(command.tail(home, product, limit=limit, earliest=earliest, as_json=as_json))


@cli.command()
@click.argument("product")
@click.option("--filter", "condition", default="", help='Conditions such as `name = "sshd" AND port < 1024`.')
@as_json
@click.pass_obj
def inventory(home: Home, product: str, condition: str, as_json: bool) -> None:
    """List the current state of an inventory."""
    from telltale.cli import products as command

    perform(command.inventory(home, product, condition=condition, as_json=as_json))


@cli.command()
@click.argument("sql")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most rows to print.")
@click.option("--timeout", type=Seconds(), default="30s", show_default=True, help="Longest time to run.")
@click.option("--verify", is_flag=True, help="Check the digests of the files that the query reads.")
@as_json
@click.pass_obj
def query(home: Home, sql: str, limit: int, timeout: float, verify: bool, as_json: bool) -> None:
    """Ask the database in SQL (DuckDB's dialect, read-only); every product is a table."""
    from telltale.cli import history as command

    command.query(home, sql, limit=limit, timeout=timeout, verify=verify, as_json=as_json)


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

    perform(command.governance(home, as_json=as_json))


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

    perform(command.credentials(home, name, groups=groups, as_json=as_json))


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

    perform(command.login(home, address, root, gateway=gateway, device=device, as_json=as_json))


@cli.command()
@click.pass_obj
def logout(home: Home) -> None:
    """End the session of a person on this machine."""
    from telltale.cli import login as command

    perform(command.logout(home))


@cli.command()
@click.argument("spiffe_id", metavar="[SPIFFE-ID]", required=False)
@click.option("--since", help="Since when: a time such as 2026-11-25T09:30:00Z, or a span such as `2h` ago.")
@click.option("--reason", default="", help="Why, in one line, for everybody in the mesh to read.")
@click.option("--lift", is_flag=True, help="Believe it again, with keys that are enrolled from now on.")
@as_json
@click.pass_obj
def distrust(
    home: Home, spiffe_id: str | None, since: str | None, reason: str, lift: bool, as_json: bool
) -> None:
    """Tell the mesh not to believe an identity any more; without one, show whom it distrusts."""
    from telltale.cli import distrust as command

    if spiffe_id is None:
        if since is not None or reason or lift:
            raise click.UsageError("name the SPIFFE-ID that this is about", click.get_current_context())
        perform(command.show_all(home, as_json=as_json))
    elif lift:
        if since is not None or reason:
            raise click.UsageError(
                "--lift ends what was said; it takes no --since and no --reason", click.get_current_context()
            )
        perform(command.lift(home, spiffe_id, as_json=as_json))
    else:
        perform(command.distrust(home, spiffe_id, since, reason, as_json=as_json))


cli.add_command(host.agent)
cli.add_command(host.spool)


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
    open_closed_outputs()
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(exit_code(lambda: _invoke(words)))


def _invoke(words: list[str]) -> None:
    # Not `cli.main`: it takes a closed pipe for a failure.
    with cli.make_context("telltale", list(words)) as context:
        cli.invoke(context)


if __name__ == "__main__":
    main()

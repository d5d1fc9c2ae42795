"""Commands for a host: bring it into the mesh, and look at what it holds."""

from pathlib import Path
from typing import IO

import click

from telltale.cli.ending import perform
from telltale.cli.home import Home
from telltale.cli.options import as_json

# The first part of an identity's path, and the program that it runs.
ROLES = ("agent", "receiver")


@click.group()
def agent() -> None:
    """Bring hosts into the mesh."""


@agent.command("token")
@click.argument("host")
@click.option("--domain", default="servers", show_default=True, help="Domain that the host's agent is of.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default=ROLES[0],
    show_default=True,
    help="What it does: speak of its host, or take what devices send.",
)
@as_json
@click.pass_obj
def agent_token(home: Home, host: str, domain: str, role: str, as_json: bool) -> None:
    """Make a single-use join token for a host, valid for 10 minutes."""
    from telltale.cli import agent as command

    perform(command.token(home, host, domain, role, as_json=as_json))


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
    """Join the mesh with this host: enrol at ADDRESS, then run the agent, or the receiver.

    ADDRESS, token and root are what `telltale agent token` printed.
    """
    from telltale.cli import agent as command

    if (token is None) == (token_file is None):
        raise click.UsageError("give either --token or --token-file", click.get_current_context())
    text = token if token is not None else token_file.read() if token_file is not None else ""
    state = state.expanduser().absolute()
    perform(command.join(address, text, root, state, authority=authority, service=service))
    if run:
        command.run(state)


@click.command()
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path))
@as_json
def spool(place: Path, as_json: bool) -> None:
    """Show what a source has sealed and nobody has acked yet, and what it gave up."""
    from telltale.cli import spool as command

    command.spool(place, as_json=as_json)

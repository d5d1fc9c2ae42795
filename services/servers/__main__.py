"""The domain service of the servers: run as `python -m services.servers`."""

from pathlib import Path

from telltale import process
from telltale.buffers import keep_freed_buffers
from telltale.domain.service import DomainSettings, run
from telltale.settings import read_or_exit

DOMAIN = "servers"
POLICY = Path(__file__).with_name("policy.cedar")

if __name__ == "__main__":
    settings = read_or_exit(
        DomainSettings,
        "The domain service of the servers: takes what host agents push, and serves its data products.",
    )
    keep_freed_buffers()
    process.run(lambda stopping: run(settings, DOMAIN, POLICY, stopping))

"""The domain service of the network: run as `python -m services.network`."""

from pathlib import Path

from telltale import process
from telltale.domain.service import DomainSettings, run
from telltale.settings import read_or_exit

DOMAIN = "network"
POLICY = Path(__file__).with_name("policy.cedar")

if __name__ == "__main__":
    settings = read_or_exit(
        DomainSettings,
        "The domain service of the network: takes what its sources push, and serves its data products.",
    )
    process.run(lambda stopping: run(settings, DOMAIN, POLICY, stopping))

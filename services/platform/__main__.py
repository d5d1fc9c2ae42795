"""The domain service of the platform: run as `python -m services.platform`."""

from pathlib import Path

from telltale import process
from telltale.domain.service import DomainSettings, run
from telltale.settings import read_or_exit

DOMAIN = "platform"
POLICY = Path(__file__).with_name("policy.cedar")

if __name__ == "__main__":
    settings = read_or_exit(
        DomainSettings,
        "The domain service of the platform: takes what processes push about themselves, and serves it.",
    )
    process.run(lambda stopping: run(settings, DOMAIN, POLICY, stopping))

"""An authority on a full disk says so and changes nothing. Needs root, for a small file system."""

from pathlib import Path

import pytest

from certs.ledger import Ledger
from certs.profiles import Profile
from telltale.errors import Unavailable
from telltale.naming import SpiffeId
from tests.support.disks import filled, small_disk

HOST = Profile(SpiffeId("servers.telltale.test", "/agent/web1"))


def test_a_full_disk_grants_no_token_and_takes_none_away(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        ledger = Ledger(disk)
        token = str(ledger.grant(HOST).token)
        with filled(disk):
            with pytest.raises(Unavailable, match="check the disk's space"):
                for _ in range(1_000):
                    ledger.grant(HOST)
            with pytest.raises(Unavailable, match="cannot be written"):
                ledger.redeem(token, b"k" * 32, lambda _: (b"leaf" * 2_000, b"issuer"))
        issued = ledger.redeem(token, b"k" * 32, lambda _: (b"leaf", b"issuer"))
        assert not issued.again
        ledger.grant(HOST)

"""The manifest: what it permits is bound, and what is wrong with it is said by the name of the key."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.receiver.manifest import Address, read_manifest
from telltale.errors import ConfigurationError


def test_ports_and_who_may_send_to_each(tmp_path: Path) -> None:
    file = tmp_path / "receiver.toml"
    file.write_text(
        '[[flows]]\nlisten = "192.0.2.1:2055"\nexporters = ["192.0.2.0/24", "198.51.100.7"]\n'
        '[[flows]]\nlisten = "[::]:4739"\nexporters = ["2001:db8::/32"]\n'
    )
    four, six = read_manifest(file).flows
    assert four.listen == Address("192.0.2.1", 2_055) and str(six.listen) == "[::]:4739"
    assert four.exporters == (ip_network("192.0.2.0/24"), ip_network("198.51.100.7/32"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "flows: field required"),
        ("flows = []", "flows"),
        ('[[flows]]\nlisten = "192.0.2.1:2055"', "flows.0.exporters: field required"),
        ('[[flows]]\nlisten = "192.0.2.1:2055"\nexporters = []', "flows.0.exporters"),
        ('[[flows]]\nlisten = "2055"\nexporters = ["192.0.2.1"]', "write it like 192.0.2.1:2055"),
        ('[[flows]]\nlisten = "router:2055"\nexporters = ["192.0.2.1"]', "flows.0.listen"),
        ('[[flows]]\nlisten = "192.0.2.1:99999"\nexporters = ["192.0.2.1"]', "flows.0.listen"),
        ('[[flows]]\nlisten = "192.0.2.1:2055"\nexporters = ["everybody"]', "flows.0.exporters.0"),
        ('[[flows]]\nlisten = "192.0.2.1:2055"\nexporters = ["192.0.2.1/24"]', "is no network"),
        ('[[flows]]\nlisten = "192.0.2.1:1"\nexporters = ["192.0.2.1"]\nport = 1', "flows.0.port"),
        ("[[flows", "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_by_the_name_of_the_key(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "receiver.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        read_manifest(file)
    assert words in str(refused.value) and str(file) in str(refused.value)

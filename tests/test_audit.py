"""The bill of materials names all that is locked, with its digests, and an audit never passes by silence."""

import re
from pathlib import Path

from tools.audit import LOCK, locked, verdicts, write_bill


def test_the_bill_names_every_locked_package_with_all_its_hashes_and_is_the_same_each_time(
    tmp_path: Path,
) -> None:
    bill = write_bill(tmp_path / "one.json")
    text = LOCK.read_text()
    listed = {part["name"].lower(): part["version"] for part in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX" and listed == locked(text) and len(listed) > 100
    hashes = {
        digest["content"]
        for part in bill["components"]
        for reference in part["externalReferences"]
        for digest in reference.get("hashes", ())
    }
    assert hashes == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    write_bill(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_what_is_vulnerable_and_what_was_not_looked_at_are_told_apart() -> None:
    report = {
        "dependencies": [
            {"name": "fine", "version": "1.0", "vulns": []},
            {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]},
            {"name": "away", "skip_reason": "not found"},
        ]
    }
    vulnerable, unchecked = verdicts(report)
    assert vulnerable == ["bad 2.0: PYSEC-1, mended in 2.1"]
    assert unchecked == ["away: not found"]

"""What Telltale is made of, as a CycloneDX bill of materials, and what is known against it.

`python -m tools.audit` writes build/sbom.json from the lock file and asks the package index for known
vulnerabilities of every locked package. Ends with 1 when there are some, with 2 when a package could not be
checked, so that an audit without a network is never taken for a clean one.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.txt"
SBOM = ROOT / "build" / "sbom.json"
_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
_SECONDS = 600


def locked(text: str) -> dict[str, str]:
    """The version of every package of a lock file."""
    return {name.lower(): version for name, version in _LOCKED.findall(text)}


def write_bill(file: Path = SBOM) -> dict[str, Any]:
    """Writes the bill of materials, the same for the same lock file, and returns it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    maker = Path(sys.executable).with_name("cyclonedx-py")
    words = [str(maker), "requirements", str(LOCK), "--output-reproducible", "--of", "JSON", "-o", str(file)]
    subprocess.run(words, check=True, timeout=_SECONDS, capture_output=True, text=True)
    bill: dict[str, Any] = json.loads(file.read_text())
    return bill


def known_problems() -> tuple[list[str], list[str]]:
    """Vulnerabilities, one a line, and the packages that could not be checked."""
    auditor = Path(sys.executable).with_name("pip-audit")
    words = [str(auditor), "-r", str(LOCK), "--disable-pip", "--require-hashes", "--format", "json"]
    words += ["--progress-spinner", "off"]
    done = subprocess.run(words, check=False, timeout=_SECONDS, capture_output=True, text=True)
    try:
        return verdicts(json.loads(done.stdout))
    except ValueError:
        lines = done.stderr.strip().splitlines()
        return [], [f"every package: {lines[-1] if lines else 'pip-audit said nothing'}"]


def verdicts(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What pip-audit's report says: vulnerabilities, and what it could not check."""
    vulnerable, unchecked = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unchecked.append(f"{package['name']}: {package['skip_reason']}")
        for found in package.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "no version"
            vulnerable.append(f"{package['name']} {package['version']}: {found['id']}, mended in {fixed}")
    return vulnerable, unchecked


def main() -> int:
    """Prints what was found and what was not looked at."""
    bill = write_bill()
    print(f"{SBOM.relative_to(ROOT)}: CycloneDX {bill['specVersion']}, {len(bill['components'])} packages")
    vulnerable, unchecked = known_problems()
    for line in vulnerable:
        print(f"VULNERABLE {line}")
    if unchecked:
        print(f"NOT CHECKED {len(unchecked)} packages, such as {unchecked[0]}")
    if not vulnerable and not unchecked:
        print("no known vulnerability")
    return 1 if vulnerable else 2 if unchecked else 0


if __name__ == "__main__":
    raise SystemExit(main())

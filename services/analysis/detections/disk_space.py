"""A filesystem is filling up."""

from services.analysis.detection import Detection, Example
from services.analysis.rules.threshold import Threshold
from telltale.api.analysis.v1.findings_pb2 import Severity, Verdict

# Images that are mounted read-only are always full, and nobody can do anything about it.
WRITABLE = "filesystem_type NOT IN ('squashfs', 'iso9660', 'erofs', 'cramfs', 'udf')"
EVIDENCE = ("device", "filesystem_type", "total_bytes", "available_bytes")
DISKS = ("*.disk_usage",)


def _disk(ratio: float, mountpoint: str = "/", filesystem_type: str = "ext4") -> dict[str, object]:
    return {"mountpoint": mountpoint, "filesystem_type": filesystem_type, "used_ratio": ratio}


DISK_SPACE = Detection(
    name="disk_space",
    version=1,
    verdict=Verdict.VERDICT_PERFORMANCE,
    severity=Severity.SEVERITY_MEDIUM,
    purpose="A filesystem stays above a share of use, so that it will be full before somebody looks.",
    rule=Threshold(
        products=DISKS,
        fields=("used_ratio", "filesystem_type"),
        value="used_ratio",
        unit="1",
        limit=lambda thresholds: thresholds.disk,
        title="{part} on {entity} is {value:.0%} full",
        where=WRITABLE,
        evidence=EVIDENCE,
    ),
    examples=(
        Example(
            "it fills up and is cleaned",
            told=[(0, [_disk(0.91)]), (30, [_disk(0.92)]), (60, [_disk(0.93)]), (90, [_disk(0.5)])],
            finds=[("OPEN", "web1", "/"), ("ENDED", "web1", "/")],
        ),
        Example(
            "it is full for less than a minute",
            told=[(0, [_disk(0.95)]), (30, [_disk(0.95)]), (59, [_disk(0.2)])],
        ),
        Example(
            "it wavers around the limit and is told once",
            told=[(30 * i, [_disk(0.91 if i % 2 == 0 else 0.89)]) for i in range(10)],
            finds=[("OPEN", "web1", "/")],
        ),
        Example(
            "an image is full by nature",
            told=[(30 * i, [_disk(1.0, "/snap/a", "squashfs")]) for i in range(10)],
        ),
        Example("nothing is wrong", told=[(30 * i, [_disk(0.4), _disk(0.8, "/var")]) for i in range(10)]),
    ),
)

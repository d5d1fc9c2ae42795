"""Every detection finds its positive examples and leaves its negative ones alone."""

from pathlib import Path

import pytest

from services.analysis.detection import Detection, Example
from services.analysis.detections import DETECTIONS
from services.analysis.settings import AnalysisSettings
from telltale.api.analysis.v1.findings_pb2 import State
from telltale.domain.service import DomainSettings
from tests.services.analysis.telling import play

_EXAMPLES = [
    pytest.param(detection, example, id=f"{detection.name}: {example.name}")
    for detection in DETECTIONS
    for example in detection.examples
]


@pytest.mark.parametrize(("detection", "example"), _EXAMPLES)
def test_an_example_finds_what_it_says(detection: Detection, example: Example, tmp_path: Path) -> None:
    found = play(example, detection, tmp_path / "state.duckdb")

    said = [(State.Name(record.state).removeprefix("STATE_"), record.entity, record.part) for record in found]
    assert said == list(example.finds)


@pytest.mark.parametrize("detection", DETECTIONS, ids=lambda detection: detection.name)
def test_a_detection_has_positive_and_negative_examples(detection: Detection) -> None:
    assert any(example.finds for example in detection.examples)
    assert any(not example.finds for example in detection.examples)


def test_names_of_detections_are_unique() -> None:
    assert len({detection.name for detection in DETECTIONS}) == len(DETECTIONS)


def test_every_detection_and_every_threshold_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "detection.md").read_text()
    own = set(AnalysisSettings.model_fields) - set(DomainSettings.model_fields)
    named = [detection.name for detection in DETECTIONS] + [f"TELLTALE_{name.upper()}" for name in own]
    assert [name for name in named if f"`{name}`" not in text] == []

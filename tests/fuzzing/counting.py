"""A plugin of pytest: how many inputs each decoder got, and a failure when all together got too few."""

import re
from collections import Counter
from typing import Any

import pytest

from tests.fuzzing.campaign import INPUTS, TAKEN

# What `make fuzz` promises.
_PROMISED = 1_000_000
_EXAMPLES = re.compile(r"(\d+) passing")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Counts(), "fuzz counts")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[Any]") -> Any:
    report = yield
    said = getattr(item, "hypothesis_statistics", None)
    if report.when == "teardown" and said is not None:
        # Hypothesis counts in its words alone.
        examples = sum(map(int, _EXAMPLES.findall(said)))
        report.user_properties.append((INPUTS, (item.nodeid.rpartition("::")[2], examples)))
    return report


class _Counts:
    """Adds up what the tests of all workers say."""

    def __init__(self) -> None:
        self._counts = {INPUTS: Counter[str](), TAKEN: Counter[str]()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "teardown":
            return
        for kind, said in report.user_properties:
            if kind in self._counts:
                name, count = said  # type: ignore[misc]  # declared as text
                self._counts[kind][name] += int(count)

    @property
    def total(self) -> int:
        return sum(self._counts[INPUTS].values())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.total < _PROMISED and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("inputs of each decoder")
        for name, inputs in sorted(self._counts[INPUTS].items(), key=lambda one: -one[1]):
            taken = self._counts[TAKEN].get(name)
            terminalreporter.line(f"{inputs:>10,}  {name}" + (f", {taken:,} taken" if taken else ""))
        short = "" if self.total >= _PROMISED else f": fewer than the promised {_PROMISED:,}"
        terminalreporter.line(f"{self.total:>10,}  in all{short}")

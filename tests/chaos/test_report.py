"""A campaign that did less than it says, or broke a promise in one of its phases, does not hold."""

import pytest

from tests.chaos.campaign import Outcome
from tests.chaos.comparison import Comparison
from tests.chaos.report import Report


def of(outcome: Outcome, **comparisons: Comparison) -> Report:
    return Report(1, (), 1.0, outcome, comparisons, ())


def test_a_campaign_in_which_all_was_done_and_nothing_broken_holds() -> None:
    assert of(Outcome(), faults=Comparison(), damage=Comparison()).holds


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(missed=["kill writer: it was not there"]),
        Outcome(never_recovered=["writer"]),
        Outcome(not_quiet=["load-1"]),
    ],
)
def test_a_fault_that_was_missed_and_a_process_that_is_not_back_fail_it(outcome: Outcome) -> None:
    assert not of(outcome, faults=Comparison()).holds


def test_a_broken_promise_in_one_phase_fails_it_and_so_does_no_comparison() -> None:
    assert not of(Outcome(), faults=Comparison(lost=["one"]), damage=Comparison()).holds
    assert not of(Outcome(), faults=Comparison(), damage=Comparison(lost=["one"])).holds
    assert not of(Outcome()).holds

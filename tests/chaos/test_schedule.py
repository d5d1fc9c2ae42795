"""A campaign is a function of its seed, and leaves nobody out."""

from collections import Counter

from telltale.cli.processes import processes
from tests.chaos.schedule import EVERYTHING, MEMBERS, Event, Fault, Parts, damages, schedule

LOADS = ("load-1", "load-2")


def of(seed: int, kills: int = 100, parts: Parts | None = None) -> tuple[Event, ...]:
    return schedule(seed, kills, LOADS, parts or Parts())


def test_the_same_seed_does_the_same_and_another_something_else() -> None:
    assert of(5) == of(5)
    assert of(5) != of(6)


def test_every_process_is_killed_as_often_as_the_others_and_everything_at_once_too() -> None:
    killed = Counter(event.target for event in of(5) if event.fault is Fault.KILL)
    everything = killed.pop(EVERYTHING)
    assert set(killed) == {*MEMBERS, *LOADS} and sum(killed.values()) == 100
    assert max(killed.values()) - min(killed.values()) <= 1 and everything


def test_a_full_campaign_has_every_fault_and_a_part_that_is_left_out_has_none() -> None:
    damaging = {Fault.FLIP, Fault.TRUNCATE}
    assert {event.fault for event in of(5)} == set(Fault) - damaging
    left = {event.fault for event in of(5, parts=Parts(half_open=False, full_disk=False))}
    assert set(Fault) - damaging - left == {Fault.HALF_OPEN, Fault.FULL}


def test_damage_is_a_phase_of_its_own_and_meets_each_file_in_each_way() -> None:
    found = damages(5, 100, Parts())
    assert {(event.fault, event.target) for event in found} == {
        (fault, target) for fault in (Fault.FLIP, Fault.TRUNCATE) for target in ("servers", "load")
    }
    assert found == damages(5, 100, Parts()) and list(found) == sorted(found, key=lambda event: event.at)
    assert not damages(5, 100, Parts(damage=False))


def test_whatever_runs_on_one_machine_is_killed() -> None:
    assert set(MEMBERS) == {"authorities", *(process.name for process in processes("host"))}


def test_events_come_in_the_order_of_time_and_those_that_last_end() -> None:
    events = of(5)
    assert list(events) == sorted(events, key=lambda event: event.at)
    lasting = {Fault.STALL, Fault.CUT, Fault.DELAY, Fault.THROTTLE, Fault.HALF_OPEN, Fault.FULL}
    for event in events:
        assert (event.seconds > 0) == (event.fault in lasting), event

"""The campaign itself: repeatable inputs, and what is wrong with a decoder comes to light."""

import pytest

from telltale.api.mesh.v1.batch_pb2 import Header, Hole
from telltale.errors import InvalidInput
from tests.fuzzing.campaign import Share, Target, run
from tests.fuzzing.mutate import Mutator

GOOD = Header(product="servers.cpu", epoch=1, holes=[Hole(first_sequence=1)]).SerializeToString()


def nothing(name: str, value: object) -> None:
    pass


def test_the_same_seed_makes_the_same_inputs_and_another_seed_others() -> None:
    first, again, other = (Mutator(seed, [GOOD]) for seed in (1, 1, 2))
    inputs = [first.next() for _ in range(500)]
    assert inputs == [again.next() for _ in range(500)]
    assert inputs != [other.next() for _ in range(500)]
    assert len(set(inputs)) > 400


def test_a_change_goes_into_fields_of_fields_and_leaves_a_message() -> None:
    mutator = Mutator(1, [GOOD])
    holes = set()
    for _ in range(2_000):
        try:
            holes |= {hole.SerializeToString() for hole in Header.FromString(mutator.next()).holes}
        except Exception:  # what is no message is what the others are for
            continue
    assert len(holes) > 50


def forgetful(data: bytes) -> bool:
    if not data.startswith(GOOD[:2]):
        raise InvalidInput("it begins in another way")
    return {1: True}[data.count(b"servers.cpu")]


def greedy(data: bytes) -> bool:
    return bool(bytearray(64 << 20)) if data != GOOD else True


def slow(data: bytes) -> bool:
    return all(abs(number) >= 0 for number in range(1_000_000)) if data != GOOD else True


@pytest.mark.parametrize(
    ("decode", "said"), [(forgetful, "KeyError of"), (greedy, "bytes for"), (slow, "calls for")]
)
def test_a_decoder_that_fails_or_takes_too_much_is_named_with_seed_and_input(
    decode: object, said: str
) -> None:
    target = Target("broken", 500, lambda: [GOOD], decode)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=rf"{said} broken, TELLTALE_FUZZ_SEED=\d+, input \d+: [0-9a-f]*"):
        run(Share(target, 0, 500), nothing)


def test_a_good_input_that_is_refused_is_a_failure() -> None:
    target = Target("strict", 1, lambda: [GOOD], lambda data: False)
    with pytest.raises(AssertionError, match="strict: not taken"):
        run(Share(target, 0, 1), nothing)

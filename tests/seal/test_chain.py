"""A chain shows every batch that is missing, and tells a repetition from a fork."""

from hypothesis import given
from hypothesis import strategies as st

from telltale.api.mesh.v1.batch_pb2 import Header, Hole
from telltale.seal.chain import Head, Link, covers, follow, missing_before, without


def header(sequence: int, previous: bytes = b"", epoch: int = 1, holes: tuple[Hole, ...] = ()) -> Header:
    return Header(epoch=epoch, sequence=sequence, previous_header_sha256=previous, holes=holes)


HEAD = Head(1, 5, b"five")


def test_a_chain_without_a_head_begins_with_whatever_comes() -> None:
    assert follow(None, header(9), b"nine") is Link.NEXT
    assert missing_before(None, header(9)) == ()


def test_the_next_batch_names_the_one_before() -> None:
    assert follow(HEAD, header(6, b"five"), b"six") is Link.NEXT
    assert follow(HEAD, header(6, b"other"), b"six") is Link.FORK


def test_the_head_again_is_seen_and_another_in_its_place_a_fork() -> None:
    assert follow(HEAD, header(5), b"five") is Link.SEEN
    assert follow(HEAD, header(5), b"another") is Link.FORK


def test_a_lower_epoch_is_stale_and_a_higher_one_begins_at_one() -> None:
    assert follow(Head(2, 5, b"five"), header(6), b"six") is Link.STALE
    assert follow(HEAD, header(1, epoch=2), b"one") is Link.NEXT
    assert missing_before(HEAD, header(3, epoch=2)) == ((1, 2),)


def test_what_is_skipped_is_missing_less_what_is_declared() -> None:
    assert missing_before(HEAD, header(9)) == ((6, 8),)
    declared = (Hole(first_sequence=7, last_sequence=7),)
    assert missing_before(HEAD, header(9, holes=declared)) == ((6, 6), (8, 8))


def test_a_hole_that_claims_the_future_declares_nothing() -> None:
    assert missing_before(HEAD, header(9, holes=(Hole(first_sequence=6, last_sequence=99),))) == ((6, 8),)


RANGES = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    max_size=6,
)


@given(RANGES, RANGES)
def test_without_is_the_difference_of_sets(
    ranges: list[tuple[int, int]], holes: list[tuple[int, int]]
) -> None:
    left = without(ranges, holes)
    for sequence in range(1, 75):
        assert covers(left, sequence) == (covers(ranges, sequence) and not covers(holes, sequence))

"""The newest batches in memory: a reader gets from them exactly what the file would give, or nothing."""

from hypothesis import given
from hypothesis import strategies as st

from telltale.domain.rows import Entry
from telltale.domain.tail import _OVERHEAD_BYTES, Tail

_PRODUCTS = ("servers.cpu", "servers.memory")


@given(
    st.lists(st.tuples(st.sampled_from(_PRODUCTS), st.integers(1, 3), st.integers(0, 300)), max_size=40),
    st.integers(1, 2_000),
    st.sampled_from(_PRODUCTS),
    st.integers(0, 150),
    st.integers(1, 600),
    st.integers(1, 5),
)
def test_what_the_tail_hands_out_is_what_follows_in_the_log(
    added: list[tuple[str, int, int]], bound: int, product: str, offset: int, max_bytes: int, most: int
) -> None:
    tail, log, last = Tail(bound), [], 0
    for name, step, size in added:
        last += step
        entry = Entry(last, bytes(size), "signer")
        tail.add(name, entry)
        log.append((name, entry))
    found = tail.after(product, offset, max_bytes, most)
    if found is None:
        return
    following = [entry for name, entry in log if name == product and entry.offset > offset]
    assert found == following[: len(found)]
    assert bool(found) == bool(following), "nothing is said only when nothing follows"
    assert len(found) <= most
    assert len(found) <= 1 or sum(len(entry.batch) for entry in found) <= max_bytes


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40))
def test_who_is_one_batch_behind_is_served_from_memory_which_stays_bounded(sizes: list[int]) -> None:
    bound = 3 * (300 + _OVERHEAD_BYTES)
    tail = Tail(bound)
    for offset, size in enumerate(sizes, start=1):
        tail.add("servers.cpu", Entry(offset, bytes(size), "signer"))
        (newest,) = tail.after("servers.cpu", offset - 1, 1 << 20, 10) or ()
        assert newest.offset == offset
        held = [tail.after("servers.cpu", before, 0, 1) or () for before in range(offset)]
        assert sum(len(one.batch) + _OVERHEAD_BYTES for entries in held for one in entries) <= bound


def test_what_retention_deleted_is_not_handed_out() -> None:
    tail = Tail()
    tail.add("servers.cpu", Entry(1, b"old", "signer"))
    tail.clear()
    tail.add("servers.cpu", Entry(2, b"new", "signer"))
    assert tail.after("servers.cpu", 0, 1 << 20, 10) is None
    assert [entry.offset for entry in tail.after("servers.cpu", 1, 1 << 20, 10) or ()] == [2]

"""How often strangers may knock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.limits import Bucket, KnockLimit
from telltale.errors import LimitExceeded


def refusals(limit: KnockLimit, peers: list[str]) -> int:
    """How many of these attempts are refused."""
    count = 0
    for peer in peers:
        try:
            limit.knock(peer)
        except LimitExceeded:
            count += 1
    return count


@given(steps=st.lists(st.floats(0, 10), max_size=200), rate=st.floats(0.1, 5), burst=st.integers(1, 20))
def test_a_bucket_never_allows_more_than_burst_and_rate(steps: list[float], rate: float, burst: int) -> None:
    bucket, now, taken = Bucket(rate, burst, 0.0), 0.0, 0
    for step in steps:
        now += step
        taken += bucket.take(now)
        assert taken <= burst + rate * now + 1e-6


def test_one_address_does_not_use_up_what_belongs_to_all() -> None:
    limit = KnockLimit(rate=1, burst=5, rate_per_address=1, burst_per_address=2, clock=lambda: 0.0)
    assert refusals(limit, [f"ipv4:192.0.2.1:{port}" for port in range(100)]) == 98
    limit.knock("ipv6:[2001:db8::1]:4711")


def test_many_addresses_share_one_limit() -> None:
    limit = KnockLimit(rate=1, burst=5, rate_per_address=1, burst_per_address=2, clock=lambda: 0.0)
    for number in range(5):
        limit.knock(f"ipv4:192.0.2.{number}:1")
    with pytest.raises(LimitExceeded, match="at once"):
        limit.knock("ipv4:192.0.2.99:1")


def test_the_addresses_that_one_host_of_ipv6_has_count_as_one() -> None:
    limit = KnockLimit(rate=1, burst=50, rate_per_address=1, burst_per_address=2, clock=lambda: 0.0)
    # As gRPC writes it.
    assert refusals(limit, [f"ipv6:%5B2001:db8::{number:x}%5D:4711" for number in range(100)]) == 98
    limit.knock("ipv4:192.0.2.1:1")
    limit.knock("ipv6:[2001:db8:0:1::1]:1")

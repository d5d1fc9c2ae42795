"""How often strangers may knock, by a token bucket for all and one for each address, and operators invite."""

import time
from collections import OrderedDict
from collections.abc import Callable

from telltale.audit import neighbourhood_of
from telltale.errors import LimitExceeded

# An attacker has many addresses; those not heard of for longest are forgotten, full buckets with them.
_MOST_ADDRESSES = 10_000


class Bucket:
    """Allows `burst` at once and `rate` a second over time."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._seen = now

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        self._level = min(self._burst, self._level + (now - self._seen) * self._rate)
        self._seen = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class InvitationLimit:
    """Counts what one authority does for operators over the wire: a stolen one makes no flood."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = Bucket(rate, burst, clock())

    def invite(self) -> None:
        """Counts one; raises LimitExceeded."""
        if not self._bucket.take(self._clock()):
            raise LimitExceeded(
                "invitations", "too many requests of operators at once; try again in a minute"
            )


class KnockLimit:
    """Counts attempts at the enrolment port."""

    def __init__(
        self,
        rate: float,
        burst: int,
        rate_per_address: float,
        burst_per_address: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._all = Bucket(rate, burst, clock())
        self._rate_per_address = rate_per_address
        self._burst_per_address = burst_per_address
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()

    def knock(self, peer: str) -> None:
        """Counts one attempt of a gRPC peer such as `ipv4:192.0.2.1:4711`; raises LimitExceeded."""
        now = self._clock()
        address = neighbourhood_of(peer)
        bucket = self._addresses.pop(address, None)
        if bucket is None:
            bucket = Bucket(self._rate_per_address, self._burst_per_address, now)
        self._addresses[address] = bucket
        if len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        # The address first: one that knocks too often must not use up what belongs to all.
        if not bucket.take(now):
            raise LimitExceeded(
                "enrolments per address", f"too many attempts to join from {address}; wait a minute"
            )
        if not self._all.take(now):
            raise LimitExceeded("enrolments", "too many attempts to join at once; try again in a minute")

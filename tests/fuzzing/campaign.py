"""Feeds a decoder with bad inputs, and bounds what each of them may cost."""

import os
import resource
import secrets
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import settings

from telltale.errors import LONGEST_MESSAGE, TelltaleError
from tests.fuzzing.mutate import Mutator

# `make fuzz` gives a target its whole share, `make test` one input of so many.
_FRACTION, _FEWEST = 100, 50
# What one test does, so that two processes have equal shares of the work.
_PART = 20_000
# Every so many inputs one is measured: the interpreter's calls, and the most memory that it holds at a time.
_MEASURED = 200
# Calls that an input may take, whatever it is, and more for each of its bytes.
_CALLS, _CALLS_A_BYTE = 300_000, 300
_BYTES, _BYTES_A_BYTE = 16 << 20, 400
# What a whole target may add to the process, native memory and caches of its decoders included.
_GROWTH_BYTES = 512 << 20
_SHOWN_BYTES = 4_096
# Names of what a test records for the plugin that counts.
INPUTS, TAKEN = "fuzz_inputs", "fuzz_taken"
# An earlier run again: the seed that a failure names.
_SEED = "TELLTALE_FUZZ_SEED"


@dataclass(frozen=True)
class Target:
    """A decoder. `decode` says whether it takes an input; it raises what is ours when it refuses it, and
    AssertionError when a property does not hold."""

    name: str
    # Of `make fuzz`.
    inputs: int
    # Inputs that are good.
    corpus: Callable[[], Sequence[bytes]]
    decode: Callable[[bytes], object]
    text: bool = False
    # Errors besides TelltaleError that the decoder's contract names.
    refusals: tuple[type[Exception], ...] = ()

    def __str__(self) -> str:
        return self.name


def shares(*targets: Target) -> Any:
    """Decorates a test that calls `run` with its one argument: each target in tests of so many inputs."""
    whole = settings.get_current_profile_name() == "fuzz"
    found = []
    for target in targets:
        inputs = target.inputs if whole else max(_FEWEST, target.inputs // _FRACTION)
        for part, first in enumerate(range(0, inputs, _PART)):
            found.append(pytest.param(Share(target, part, min(_PART, inputs - first)), id=f"{target}-{part}"))
    return pytest.mark.parametrize("share", found)


@dataclass(frozen=True)
class Share:
    """A part of a target's inputs."""

    target: Target
    part: int
    inputs: int


def seed() -> int:
    """New in every run, but where a change is decided on."""
    if _SEED in os.environ:
        return int(os.environ[_SEED])
    return 0 if "CI" in os.environ else secrets.randbits(32)


def run(share: Share, record_property: Callable[[str, object], None]) -> None:
    """Raises AssertionError with the input when something else than a refusal comes of it."""
    target, corpus = share.target, share.target.corpus()
    for good in corpus:
        # What is good is taken: else the mutations would try nothing but the first check.
        assert _try(target, good, f"{target}, a good input of {len(good)} bytes"), f"{target}: not taken"
    start = seed() + share.part
    mutator = Mutator(start, corpus, text=target.text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = 0
    with warnings.catch_warnings():
        # What a later version of the library will refuse, it says now.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        for number in range(share.inputs):
            data = mutator.next()
            where = f"{target}, {_SEED}={start}, input {number}: {_shown(data)}"
            taken += (_measured if number % _MEASURED == 0 else _try)(target, data, where)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert growth <= _GROWTH_BYTES, f"{target}, {_SEED}={start}: the process grew by {growth} bytes"
    record(share, record_property, taken)


def record(share: Share, record_property: Callable[[str, object], None], taken: int) -> None:
    """Tells the plugin that counts."""
    record_property(INPUTS, (share.target.name, share.inputs))
    record_property(TAKEN, (share.target.name, taken))


def _try(target: Target, data: bytes, where: str) -> bool:
    try:
        return bool(target.decode(data))
    except (TelltaleError, *target.refusals) as refused:
        # Somebody has to be able to act on it, and it goes into logs and over the wire.
        assert 0 < len(str(refused)) <= LONGEST_MESSAGE, where
        return False
    except Exception as failed:
        raise AssertionError(f"{type(failed).__name__} of {where}") from failed


def _measured(target: Target, data: bytes, where: str) -> bool:
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1

    tracemalloc.start()
    sys.setprofile(count)
    try:
        taken = _try(target, data, where)
    finally:
        sys.setprofile(None)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert calls <= _CALLS + _CALLS_A_BYTE * len(data), f"{calls} calls for {where}"
    assert most <= _BYTES + _BYTES_A_BYTE * len(data), f"{most} bytes for {where}"
    return taken


def _shown(data: bytes) -> str:
    return data[:_SHOWN_BYTES].hex() + (f"... ({len(data)} bytes)" if len(data) > _SHOWN_BYTES else "")

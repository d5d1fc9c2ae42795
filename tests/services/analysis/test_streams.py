"""What is missing from a chain is told once its source had its chance to declare it."""

from services.analysis.clock import SECOND, micros
from services.analysis.streams import Stream, count
from telltale.api.mesh.v1.batch_pb2 import Header, Hole
from telltale.seal.chain import Head
from tests.services.analysis.telling import at

GRACE = 60 * SECOND
STREAM = Stream("servers.cpu", "spiffe://servers.telltale.internal/agent/web1", head=Head(1, 4, b""))


def header(sequence: int, sealed: float, *holes: tuple[int, int]) -> Header:
    made = Header(
        epoch=1, sequence=sequence, holes=[Hole(first_sequence=a, last_sequence=b) for a, b in holes]
    )
    made.sealed_time.FromDatetime(at(sealed))
    return made


def test_a_backlog_that_was_sealed_before_the_loss_is_not_held_against_its_source() -> None:
    stream = STREAM.missing(header(6, -600), [(5, 5)], micros(at(0)))
    assert stream.undeclared(header(7, -570), micros(at(1)), GRACE) == ()
    assert stream.undeclared(header(8, 30), micros(at(31)), GRACE) == ()
    assert stream.undeclared(header(9, 90), micros(at(91)), GRACE) == ((5, 5),)


def test_a_declared_hole_is_no_broken_chain() -> None:
    stream = STREAM.missing(header(9, 0), [(5, 8)], micros(at(0)))
    stream = stream.missing(header(10, 10, (5, 6)), (), micros(at(10)))
    assert stream.pending == ((7, 8),)
    stream = stream.missing(header(11, 20, (7, 8)), (), micros(at(20)))
    assert stream.undeclared(header(12, 600), micros(at(600)), GRACE) == ()


def test_a_source_whose_clock_is_behind_does_not_get_away() -> None:
    stream = STREAM.missing(header(6, -86_400), [(5, 5)], micros(at(0)))
    assert stream.undeclared(header(7, -85_799), micros(at(601)), GRACE) == ((5, 5),)


def test_ranges_that_wait_are_bounded() -> None:
    stream = STREAM
    for sequence in range(6, 300, 2):
        stream = stream.missing(header(sequence, 0), [(sequence - 1, sequence - 1)], micros(at(0)))
    told = stream.undeclared(header(301, 0), micros(at(0)), GRACE)
    assert count(told) == 147
    assert stream.settled().pending == ()


def test_a_batch_without_records_moves_no_watermark() -> None:
    stream = STREAM.advanced(header(5, 10), b"x", micros(at(10)), SECOND)
    assert (stream.watermark, stream.received) == (0, micros(at(10)))


def test_an_event_time_that_is_no_time_moves_no_watermark() -> None:
    odd = header(5, 10)
    odd.last_event_time.seconds = -(1 << 62)
    stream = STREAM.advanced(header(5, 20), b"x", micros(at(20)), SECOND)
    assert stream.advanced(odd, b"x", micros(at(21)), SECOND).watermark == 0

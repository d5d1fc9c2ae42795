"""Time inside the analysis: whole microseconds since 1970, as DuckDB and Arrow count them too."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


def length(duration: timedelta) -> int:
    """Microseconds of a duration."""
    return duration // _MICROSECOND


def of_timestamp(timestamp: Timestamp) -> int:
    """Microseconds since 1970 of a protobuf timestamp, rounded down. Nonsense is taken too."""
    return timestamp.seconds * SECOND + timestamp.nanos // 1_000


def to_timestamp(moment: int) -> Timestamp:
    """A protobuf timestamp of microseconds since 1970."""
    return Timestamp(seconds=moment // SECOND, nanos=moment % SECOND * 1_000)

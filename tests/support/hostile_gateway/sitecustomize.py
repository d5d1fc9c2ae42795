"""On the import path of a mesh this makes its gateway hostile; the other processes stay what they are.

What it does depends on the source, by the last part of its name. `tenth`: every tenth batch is dropped.
`swapped`: the second and third batch change places. `changed`: a bit of every second payload is flipped.
`moved`: the second batch is said to be of another product.
"""

import sys

if sys.orig_argv[-2:] == ["-m", "gateway"]:
    from collections.abc import Iterator
    from dataclasses import replace

    from gateway import frames
    from telltale import wire
    from telltale.api.mesh.v1.batch_pb2 import Header, SealedBatch, SealedFrame

    honest = frames.FrameReader.read
    held: dict[int, frames.Batch] = {}

    def opened(batch: frames.Batch) -> SealedBatch:
        (only,) = SealedFrame.FromString(batch.wire).batches
        return only

    def closed(batch: SealedBatch) -> bytes:
        return wire.field(SealedFrame.BATCHES_FIELD_NUMBER, batch.SerializeToString())

    def placed(batch: frames.Batch, place: frames.Batch) -> frames.Batch:
        """The batch as if it lay where another one lies."""
        moved = opened(batch)
        moved.delivery = opened(place).delivery
        return replace(place, wire=closed(moved), chain=batch.chain, records=batch.records)

    def hostile(self: frames.FrameReader, data: bytes) -> Iterator[frames.Item]:
        for item in honest(self, data):
            if not isinstance(item, frames.Batch):
                yield item
                continue
            batch = opened(item)
            header = Header.FromString(batch.header)
            match header.source.rpartition("/")[2]:
                case "tenth" if header.sequence % 10 == 0:
                    continue
                case "swapped" if header.sequence == 2:
                    held[id(self)] = item
                    continue
                case "swapped" if header.sequence == 3 and id(self) in held:
                    second = held.pop(id(self))
                    yield placed(item, second)
                    yield placed(second, item)
                    continue
                case "changed" if header.sequence % 2 == 0:
                    batch.payload = bytes([batch.payload[0] ^ 1, *batch.payload[1:]])
                    item = replace(item, wire=closed(batch))
                case "moved" if header.sequence == 2:
                    header.product = "servers.memory"
                    batch.header = header.SerializeToString()
                    item = replace(item, wire=closed(batch))
            yield item

    frames.FrameReader.read = hostile  # type: ignore[method-assign]

"""The engine: deliveries in, findings into the outbox, everything in one transaction.

It runs in one thread. What it decides depends on the records, their order within each stream and, for
silence only, on the clock; never on how deliveries are cut into chunks.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import groupby

import structlog

from services.analysis import metrics, outbox
from services.analysis.admission import Admission, Chunk
from services.analysis.clock import SECOND, micros
from services.analysis.detection import Detection, Fault, View, Wrong
from services.analysis.episodes import Episodes
from services.analysis.hearing import Hearing
from services.analysis.records import Opened, Records
from services.analysis.state import State
from services.analysis.thresholds import Thresholds
from telltale.api.analysis.v1.findings_pb2 import FindingsRecord
from telltale.api.analysis.v1.findings_pb2 import State as FindingState
from telltale.consume.chains import KnownChain
from telltale.consume.columns import Columns, to_arrow
from telltale.consume.delivered import Delivered, Item, Missing
from telltale.contract.product import Contract
from telltale.identity.distrust import Distrust

# Versions of products of which the readers are remembered.
_MOST_CONTRACTS = 1_024

_log = structlog.get_logger("services.analysis")


class Engine:
    """Runs detections over deliveries. `own` is this service's SPIFFE ID: it takes no input from itself."""

    def __init__(
        self,
        state: State,
        detections: Sequence[Detection],
        thresholds: Thresholds,
        own: str,
        distrust: Distrust,
    ) -> None:
        self._state = state
        self._episodes = Episodes(state)
        self._thresholds = thresholds
        self._views = [View(state, detection, thresholds, distrust) for detection in detections]
        self._admission = Admission(thresholds, own)
        self._hearing = Hearing()
        self._deaf = False
        self._reading: dict[Contract, list[View]] = {}

    def chains(self) -> list[KnownChain]:
        """Where the chains stand that were read, for the subscription that goes on."""
        return [
            KnownChain(stream.product, stream.source, stream.head, stream.after_gap)
            for stream in self._state.streams().values()
            if stream.head is not None
        ]

    def take(self, items: Sequence[Item], now: datetime) -> list[FindingsRecord]:
        """Takes what a subscription yielded; returns what it found, which is then durable in the outbox."""
        moment = micros(now)
        batches = [item for item in items if isinstance(item, Delivered)]
        with self._state.transaction():
            streams = self._state.streams((item.product, item.header.source) for item in batches)
            gapped = {item.product for item in items if isinstance(item, Missing)}
            until = {product: self._state.received(product) for product in gapped}
            chunk = self._admission.admit(items, streams, until)
            # Before anything is found: a finding says how complete its input was.
            self._fall_short(chunk)
            found = self._records(chunk, moment)
            for fault in chunk.faults:
                found += self._fault(fault, moment)
            self._keep(chunk, found)
        for item in batches:
            received = micros(item.received_time)
            self._hearing.heard(item.product, received, moment)
            metrics.LAG.record(max(0, moment - received) / SECOND)
        metrics.BATCHES.add(len(batches))
        self._tell(found)
        return found

    def tick(self, now: datetime) -> list[FindingsRecord]:
        """Looks at what did not arrive and ends what is over; returns what it found."""
        moment = micros(now)
        with self._state.transaction():
            self._state.forget(moment - int(self._thresholds.forget_seconds * SECOND))
            found = self._words(moment) + self._silence(moment)
            for view in self._views:
                found += self._episodes.end_quiet(view.detection, moment)
            outbox.put(self._state, found)
        self._tell(found)
        return found

    def forget_told(self, before: datetime) -> None:
        """Drops the memory of findings that were told before; it bounds the state, not what is found."""
        with self._state.transaction():
            self._episodes.forget(micros(before))

    def _words(self, now: int) -> list[FindingsRecord]:
        return [
            record
            for view in self._views
            for record in self._episodes.take(view.detection, view.detection.rule.words(view), now)
        ]

    def _silence(self, now: int) -> list[FindingsRecord]:
        deaf = self._hearing.deaf(now)
        if deaf != self._deaf:
            _log.warning("nothing is heard: nobody is called silent" if deaf else "heard something again")
            self._deaf = deaf
        if deaf:
            return []
        self._state.hear({product: self._hearing.since(product) for product in self._state.products()})
        return [
            record
            for view in self._views
            for record in self._episodes.take(view.detection, view.detection.rule.clock(now, view), now)
        ]

    def _records(self, chunk: Chunk, now: int) -> list[FindingsRecord]:
        found: list[FindingsRecord] = []
        wanted = [one for one in chunk.opened if self._readers(one.contract)]
        # A stable sort keeps the order within each product, which is all that rules rest on.
        wanted.sort(key=lambda one: one.contract.name)
        for _, group in groupby(wanted, key=lambda one: id(one.contract)):
            batches, columns = self._decode(list(group), chunk)
            if not batches:
                continue
            metrics.RECORDS.add(columns.records.num_rows)
            records = Records(batches, columns.records, columns.record_counts)
            records.show(self._state.sql)
            try:
                self._count_late(records.contract.name, chunk)
                self._fall_short(chunk)
                for view in self._readers(records.contract):
                    signals = view.detection.rule.records(records.contract, view)
                    found += self._episodes.take(view.detection, signals, now)
            finally:
                records.hide(self._state.sql)
        return found

    def _readers(self, contract: Contract) -> list[View]:
        """The detections that read a product; asked for every batch, so the answer is kept."""
        known = self._reading.get(contract)
        if known is None:
            if len(self._reading) >= _MOST_CONTRACTS:
                self._reading.clear()
            known = [view for view in self._views if view.detection.rule.reads(contract)]
            self._reading[contract] = known
        return known

    def _decode(self, batches: list[Opened], chunk: Chunk) -> tuple[list[Opened], Columns]:
        """Columns of the batches that are what their headers say; the others are faults."""
        contract = batches[0].contract
        try:
            columns = to_arrow(contract, [one.payload for one in batches])
        except ValueError:
            columns = None
        if columns is not None and all(columns.count(i) == one.records for i, one in enumerate(batches)):
            return batches, columns
        good = [one for one in batches if self._holds(one, chunk)]
        return good, to_arrow(contract, [one.payload for one in good])

    def _holds(self, batch: Opened, chunk: Chunk) -> bool:
        product, source = batch.contract.name, batch.source
        try:
            records = to_arrow(batch.contract, [batch.payload]).count(0)
        except ValueError as wrong:
            detail = f"its payload does not decode: {wrong}"
        else:
            if records == batch.records:
                return True
            detail = f"it holds {records} records where its header says {batch.records}"
        chunk.shortfalls[product, source, batch.received, "refused_batches"] += 1
        chunk.faults.append(Fault(Wrong.MALFORMED, product, source, batch.received, detail, run=batch.run))
        return False

    def _count_late(self, product: str, chunk: Chunk) -> None:
        rows = self._state.sql.execute(
            "SELECT _source, min(_at), count(*) FROM observed WHERE _late GROUP BY _source"
        ).fetchall()
        for source, at, late in rows:
            chunk.shortfalls[product, source, at, "late_records"] += late
            metrics.LATE.add(late, {"product": product})

    def _fault(self, fault: Fault, now: int) -> list[FindingsRecord]:
        # A gap before anything was ever received has no time but now.
        timed = fault if fault.at else replace(fault, at=now)
        return [
            record
            for view in self._views
            for record in self._episodes.take(view.detection, view.detection.rule.fault(timed, view), now)
        ]

    def _fall_short(self, chunk: Chunk) -> None:
        self._state.fall_short(chunk.shortfalls)
        chunk.shortfalls.clear()

    def _keep(self, chunk: Chunk, found: Sequence[FindingsRecord]) -> None:
        self._fall_short(chunk)
        for product in chunk.gapped:
            self._state.skip(product)
        self._state.save([stream for stream in chunk.streams.values() if stream.head is not None])
        for product, log in chunk.left:
            self._state.leave(product, log)
        self._state.move(chunk.reached)
        outbox.put(self._state, found)

    def _tell(self, found: Sequence[FindingsRecord]) -> None:
        for record in found:
            state = FindingState.Name(record.state).removeprefix("STATE_").lower()
            metrics.FINDINGS.add(1, {"detection": record.detection, "state": state})
            _log.info("finding", state=state, id=record.id, detection=record.detection, title=record.title)

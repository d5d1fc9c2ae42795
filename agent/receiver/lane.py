"""The way of flows: ports, decoder, outlet; and what is told of it."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from agent.collectors import Host
from agent.outlet import Outlet
from agent.receiver.flows import kept
from agent.receiver.flows.decoder import Datagram, Decoded, FlowDecoder
from agent.receiver.flows.table import Allowlist, ExporterTable
from agent.receiver.ports import Ports
from agent.status import CollectorStatus, State
from telltale.api.mesh.v1.batch_pb2 import (
    LOSS_REASON_BOUND,
    LOSS_REASON_FAILURE,
    LOSS_REASON_UPSTREAM,
    Loss,
)
from telltale.api.network.v1.exporters_pb2 import ExportersRecord
from telltale.contract.product import Contract

log = structlog.get_logger(__name__)

PRODUCT = "network.flows"
# How long datagrams are gathered, so that those of one template are decoded together.
_GATHER_SECONDS = 0.25
# About 150,000 flows: half a second of work, and bounded memory.
_TURN_BYTES = 8 << 20
_SAVE_EVERY_SECONDS = 60.0
# For as long as this after a loss, whoever looks shall see it.
_DEGRADED_SECONDS = 60.0
# Templates are saved sooner: without them nothing can be decoded after a restart.
_SAVE_NEW_SECONDS = 5.0


class FlowLane:
    """Decodes what comes to the ports and hands it on, until cancelled."""

    def __init__(
        self,
        ports: Ports,
        allowed: list[Allowlist],
        contract: Contract,
        outlet: Outlet,
        host: Host,
        state: Path,
    ) -> None:
        self._ports = ports
        self._allowed = allowed
        self._contract = contract
        self._outlet = outlet
        self._host = host
        self._state = state
        self._decoder = FlowDecoder(ExporterTable(), contract)
        # The table is read from a collector's thread.
        self._lock = threading.Lock()
        self._saved = self._degraded_until = 0.0
        self._status = CollectorStatus(
            PRODUCT, _GATHER_SECONDS, State.OK, "", time.time_ns(), 0.0, 0, 0, 0, 0
        )

    def exporters(self) -> list[ExportersRecord]:
        """The rows of network.exporters. Called in a thread."""
        with self._lock:
            return self._decoder.table.records(time.time())

    async def run(self) -> None:
        """Gathers, decodes and hands on. What was read is handed on before it ends."""
        known = await asyncio.to_thread(kept.load, self._state)
        self._decoder = FlowDecoder(ExporterTable(known), self._contract)
        try:
            while True:
                if not await self._turn():
                    await asyncio.sleep(_GATHER_SECONDS)
                await self._save()
        finally:
            while await self._turn():
                pass
            for loss in self._decoder.close():
                self._outlet.lose(loss)
            await self._save(at_once=True)

    async def _turn(self) -> bool:
        """Returns whether more waits. A turn is not broken off: what it took is nowhere else."""
        turn = asyncio.ensure_future(self._decode_and_publish())
        try:
            return await asyncio.shield(turn)
        except asyncio.CancelledError:
            await turn
            raise

    async def _decode_and_publish(self) -> bool:
        began = time.monotonic()
        taken, more = self._ports.take(_TURN_BYTES)
        decoded = [await asyncio.to_thread(self._decode, index) for index in enumerate(taken)]
        losses = [*(loss for one in decoded for loss in one.losses), *self._dropped()]
        parts = [part for one in decoded for part in one.parts]
        records = sum(one.records for one in decoded)
        try:
            if not await self._outlet.put_encoded(parts, losses):
                # Declared by whoever had no room; here it is only told.
                losses = [Loss(records=records, reason=LOSS_REASON_BOUND, detail="the spool is full")]
                records = 0
        except Exception as failed:
            detail = f"flows could not be kept: {failed}"
            losses = [Loss(records=records, reason=LOSS_REASON_FAILURE, detail=detail)]
            self._outlet.lose(losses[0])
            self._tell(State.FAILING, time.monotonic() - began, 0, losses)
            return more
        if losses:
            self._degraded_until = began + _DEGRADED_SECONDS
        degraded = began < self._degraded_until
        self._tell(State.DEGRADED if degraded else State.OK, time.monotonic() - began, records, losses)
        return more

    def _decode(self, taken: tuple[int, list[Datagram]]) -> Decoded:
        index, datagrams = taken
        with self._lock:
            try:
                return self._decoder.decode(datagrams, self._allowed[index])
            except Exception as failed:
                # Whoever finds a datagram that no test has found loses this turn, and ends nothing.
                log.exception("datagrams could not be decoded", datagrams=len(datagrams))
                self._decoder.drop()
                detail = f"datagrams could not be decoded: {type(failed).__name__}"
                return Decoded((), [Loss(reason=LOSS_REASON_FAILURE, detail=detail)], 0)

    def _dropped(self) -> list[Loss]:
        losses = []
        for address, count in self._ports.take_dropped():
            detail = f"the kernel dropped datagrams at {address} before they could be read"
            losses.append(Loss(reason=LOSS_REASON_UPSTREAM, detail=detail))
            log.warning("the kernel dropped datagrams", port=str(address), datagrams=count)
        overflow = self._ports.take_overflow()
        if overflow:
            detail = "datagrams came faster than they could be decoded"
            losses.append(Loss(reason=LOSS_REASON_BOUND, detail=detail))
            log.warning("datagrams came faster than they could be decoded", datagrams=overflow)
        return losses

    async def _save(self, *, at_once: bool = False) -> None:
        pause = _SAVE_NEW_SECONDS if self._decoder.learned else _SAVE_EVERY_SECONDS
        if not at_once and time.monotonic() - self._saved < pause:
            return
        self._saved, self._decoder.learned = time.monotonic(), False
        document = kept.describe(self._decoder.table)
        try:
            await asyncio.to_thread(kept.save, self._state, document)
        except OSError as failed:
            log.warning("what is known of exporters cannot be saved", reason=str(failed))

    def _tell(self, state: State, seconds: float, records: int, losses: Sequence[Loss]) -> None:
        status = self._status
        reason = "; ".join(loss.detail for loss in losses[:3])
        if state is State.DEGRADED and not reason:
            reason = status.reason
        if (state, reason) != (status.state, status.reason):
            status = replace(status, state=state, reason=reason, since_unix_ns=time.time_ns())
        self._status = self._host.agent.collectors[PRODUCT] = replace(
            status,
            last_duration_seconds=seconds,
            runs=status.runs + 1,
            records=status.records + records,
            lost=status.lost + sum(loss.records for loss in losses),
        )

"""List of every inventory: the current state, page by page, all pages at one position."""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from telltale.api.mesh.v1.batch_pb2 import Position
from telltale.api.mesh.v1.inventory_pb2 import SealedEntry, SealedList
from telltale.api.mesh.v1.stream_pb2 import ListRequest
from telltale.contract.product import Contract
from telltale.contract.schema import message_class
from telltale.domain.access import Access, asking
from telltale.domain.clearance import Clearance
from telltale.domain.filters import compile_filter
from telltale.domain.inventory import Query, Row
from telltale.domain.log import ProductLog
from telltale.errors import InvalidInput
from telltale.seal.sealing import sha256

_DEFAULT_PAGE, _MAX_PAGE = 100, 1_000
# Rows that one look at the state reads when a filter may pass over many.
_SCAN = 2_000
# A page ends at this size though it has fewer rows than were asked for: it has to fit into a message.
_PAGE_BYTES = 1 << 20
# Of a page token: four short values in base64.
MAX_TOKEN = 1024

Predicate = Callable[[str, Message], bool]


class Listings:
    """Answers List as bytes of the product's own list message."""

    def __init__(self, log: ProductLog, access: Access) -> None:
        self._log = log
        self._access = access

    async def page(self, contract: Contract, request: ListRequest) -> bytes:
        """The caller needs `list`; fields that it may not `see` are masked."""
        self._access.require("list", contract)
        principal = asking()
        clearance = self._access.shown(contract)
        if request.page_size < 0:
            raise InvalidInput(f"page_size must not be negative, got {request.page_size}")
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        wanted = compile_filter(
            request.filter, contract.record, lambda field: clearance.require_visible(principal, field)
        )
        token = PageToken.read(request, self._log.id)
        rows: list[Row] = []
        after, position, complete = token.after, token.position, False
        held = 0
        while len(rows) <= size and held <= _PAGE_BYTES and not complete:
            limit = _SCAN if request.filter else size + 1 - len(rows)
            page = await self._log.page(Query(contract.name, position, after, limit))
            if page.expired:
                raise InvalidInput("the page token is too old; start again without it")
            position, complete = page.position, page.complete
            if page.rows:
                after = page.rows[-1].place
            # Parsing thousands of records would hold up everybody else on the loop.
            matching = await asyncio.to_thread(_matching, contract, wanted, clearance, page.rows)
            rows += matching
            held += sum(len(row.record) for row in matching)
        if len(rows) > size:
            rows = rows[:size]
            after, complete = rows[-1].place, False
        response = self._response(contract, rows, position or 0)
        response.masked_fields.extend(clearance.masked)
        if not complete:
            response.next_page_token = PageToken(position, after).text(request, self._log.id)
        return response.SerializeToString()

    def _response(self, contract: Contract, rows: list[Row], position: int) -> SealedList:
        freshness_ms = contract.options.freshness.ToMilliseconds()
        now = time.time_ns() // 1_000_000
        response = SealedList(position=Position(product=contract.name, log=self._log.id, offset=position))
        for row in rows:
            stale_ms = row.seen_ms + freshness_ms
            stale = _timestamp(stale_ms) if stale_ms < now else None
            response.entries.append(SealedEntry(source=row.source, stale_since=stale, record=row.record))
        return response


class PageToken:
    """Where the next page begins. It is no secret and grants nothing: it only names a place in the state.

    The place is the number of a row, never its key, which the caller may have no right to see.
    """

    def __init__(self, position: int | None, after: int | None) -> None:
        self.position = position
        self.after = after

    @classmethod
    def read(cls, request: ListRequest, log: str) -> "PageToken":
        if not request.page_token:
            return cls(None, None)
        try:
            if len(request.page_token) > MAX_TOKEN:
                raise ValueError("longer than any of ours")
            own, query, position, after = json.loads(base64.urlsafe_b64decode(request.page_token))
            if own != log or query != _digest(request):
                raise ValueError("another log or another filter")
            # The caller can write what it likes here, and the database takes no other numbers.
            if not (0 <= int(position) < 1 << 63 and 0 <= int(after) < 1 << 63):
                raise ValueError("no offset of a log or no row")
            return cls(int(position), int(after))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, binascii.Error):
            raise InvalidInput("the page token is not of this listing; start again without it") from None

    def text(self, request: ListRequest, log: str) -> str:
        content = json.dumps([log, _digest(request), self.position, self.after or 0])
        return base64.urlsafe_b64encode(content.encode()).decode()


def _digest(request: ListRequest) -> str:
    return sha256(request.filter.encode()).hex()[:16]


def _matching(contract: Contract, wanted: Predicate, clearance: Clearance, rows: Sequence[Row]) -> list[Row]:
    """The rows that a filter wants, as the caller may see them."""
    record_class = message_class(contract.record)
    matching = [row for row in rows if wanted(row.source, record_class.FromString(row.record))]
    if not clearance.masked:
        return matching
    return [replace(row, record=clearance.masked_record(row.record)) for row in matching]


def _timestamp(milliseconds: int) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.fromtimestamp(milliseconds / 1_000, UTC))
    return moment

"""Schemas by digest: from memory, from a directory, or from their domain. The digest is checked here."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from telltale.contract.schema import MAX_BYTES, Schema
from telltale.errors import InvalidInput
from telltale.identity.keys import write_secret

# A schema with its descriptors takes some 200 KiB of memory.
_IN_MEMORY = 512
_ON_DISK = 4_096

_log = structlog.get_logger("telltale.consume")

Fetch = Callable[[bytes], Awaitable[bytes]]


class SchemaCache:
    """Schemas that were checked against their digests. `fetch` returns the bytes for a digest, or raises."""

    def __init__(self, fetch: Fetch, directory: Path | None = None) -> None:
        self._fetch = fetch
        self._directory = directory
        self._known: OrderedDict[bytes, Schema] = OrderedDict()

    def known(self, digest: bytes) -> Schema | None:
        """The schema if it is in memory."""
        schema = self._known.get(digest)
        if schema is not None:
            self._known.move_to_end(digest)
        return schema

    async def get(self, digest: bytes) -> Schema:
        """The schema; raises InvalidInput when what was fetched is not it, and what `fetch` raises."""
        schema = self.known(digest)
        if schema is None:
            schema = await asyncio.to_thread(self._load, digest)
        if schema is None:
            data = await self._fetch(digest)
            schema = await asyncio.to_thread(_parse, data, digest)
            await asyncio.to_thread(self._save, schema)
        self._known[digest] = schema
        if len(self._known) > _IN_MEMORY:
            self._known.popitem(last=False)
        return schema

    def _load(self, digest: bytes) -> Schema | None:
        path = self._path(digest)
        if path is None or not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        try:
            return _parse(path.read_bytes(), digest)
        except InvalidInput as damaged:
            _log.warning("schema on disk is damaged; fetching it again", path=str(path), error=str(damaged))
            return None

    def _save(self, schema: Schema) -> None:
        path = self._path(schema.sha256)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if sum(1 for _ in path.parent.iterdir()) < _ON_DISK:
            write_secret(path, schema.data)

    def _path(self, digest: bytes) -> Path | None:
        return None if self._directory is None else self._directory / f"{digest.hex()}.binpb"


def _parse(data: bytes, digest: bytes) -> Schema:
    schema = Schema.parse(data, digest)
    # Builds the descriptors here, in a thread, not at the first batch on the loop.
    schema.contracts()
    return schema

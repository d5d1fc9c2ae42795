"""Reflection over the whole mesh: the gateway's own services and the products that callers may discover."""

from collections import OrderedDict

from gateway.access import Access
from gateway.catalog import Catalog
from telltale.contract import own_image
from telltale.contract.reflection import SymbolIndex
from telltale.rpc.auth import Context, caller

# Services that the gateway itself answers; other services of the mesh's package live at the domains.
_OWN_SERVICES = frozenset(
    f"telltale.api.mesh.v1.{name}" for name in ("Access", "Catalog", "Schemas", "Stream")
)
_KEPT_VIEWS = 64


class Reflection:
    """Files of the mesh and of every domain; shared files are always the gateway's own copies."""

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access
        self._mesh = own_image("mesh").files
        self._version = -1
        self._whole = SymbolIndex({})
        # What callers may see differs in few ways: one view a set of services.
        self._views: OrderedDict[frozenset[str], SymbolIndex] = OrderedDict()

    async def visible(self, context: Context) -> SymbolIndex:
        """What the caller of the running call may see."""
        products = await self._access.discoverable(caller(), tuple(self._catalog.feeds))
        if self._version != self._catalog.version:
            self._version = self._catalog.version
            self._views.clear()
            files = dict(self._mesh)
            for domain in self._catalog.domains:
                files.update(domain.registration.files)
            self._whole = SymbolIndex(files)
        feeds = self._catalog.feeds
        services = _OWN_SERVICES | {feeds[name].contract.service for name in products if name in feeds}
        view = self._views.get(services)
        if view is None:
            view = self._views[services] = self._whole.only(services)
            if len(self._views) > _KEPT_VIEWS:
                self._views.popitem(last=False)
        return view

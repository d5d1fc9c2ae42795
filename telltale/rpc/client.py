"""The calling end: channel options, the metadata that every call carries, pauses between attempts, errors."""

from telltale.identity.dialling import CHANNEL_OPTIONS, LARGEST_MESSAGE, backoff
from telltale.identity.workload import Workload
from telltale.rpc.status import status_error

__all__ = ["CHANNEL_OPTIONS", "LARGEST_MESSAGE", "backoff", "call_metadata", "status_error"]


async def call_metadata(me: Workload, audience: str, *others: str) -> tuple[tuple[str, str], ...]:
    """Metadata of one call to the services of `audience`. A call that will be forwarded names the trust
    domains behind the first one too. Fetch it anew for every call: it ends after 15 minutes."""
    return (("authorization", f"Bearer {await me.token(audience, *others)}"),)

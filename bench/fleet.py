"""Simulated agents in one process, each with its own identity and connection. Part of a measured mesh."""

import argparse
import asyncio
import contextlib
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Never

from bench.counters import Counters
from bench.load import COUNTERS, LoadSettings, pushing_on
from bench.sealed import PRODUCT, Stock
from certs.issuing import IssuingAuthority
from certs.profiles import Profile, profile_of
from telltale import naming, process, wire
from telltale.api.mesh.v1.ingest_pb2 import PushRequest, PushResponse
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import IssuedToken
from telltale.identity.keys import new_key
from telltale.identity.trust import Trust
from telltale.identity.workload import Workload
from telltale.naming import SpiffeId
from telltale.rpc.client import stream_metadata
from telltale.settings import read_or_exit

# What a host of the default configuration tells in about this time, as one batch.
RECORDS, EVERY_SECONDS = 10, 10.0
# Agents that shake hands at once: as many as make the service busy, not so many that they time out.
_AT_ONCE = 16


class _LocalIssuer:
    """The domain's authority without a wire: 10,000 enrolments are no part of what is measured here."""

    def __init__(self, authority: IssuingAuthority) -> None:
        self._authority = authority

    async def renew(self, credentials: Credentials) -> Credentials:
        key = new_key()
        return Credentials(key, self._authority.issue(profile_of(credentials.leaf), key.public_key()))

    async def token(self, credentials: Credentials, audiences: Sequence[str]) -> IssuedToken:
        return self._authority.issue_token(
            credentials.spiffe_id, credentials.thumbprint, audiences, credentials.not_after
        )


async def run(settings: LoadSettings, how: argparse.Namespace, stopping: asyncio.Event) -> None:
    """Connects the agents; then each pushes a batch now and then, until `stopping` is set."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    authority = await asyncio.to_thread(IssuingAuthority.load, how.authority)
    trust = await asyncio.to_thread(Trust.load, settings.trust, settings.mesh)
    handshakes = asyncio.Semaphore(_AT_ONCE)
    with Counters(settings.state / COUNTERS) as counters:
        async with asyncio.TaskGroup() as tasks:
            agents = [
                tasks.create_task(
                    _agent(
                        f"{how.name}-{number}",
                        settings.service,
                        how.every,
                        authority,
                        trust,
                        handshakes,
                        counters,
                    )
                )
                for number in range(how.agents)
            ]
            await stopping.wait()
            for agent in agents:
                agent.cancel()


async def _agent(
    name: str,
    service: str,
    every: float,
    authority: IssuingAuthority,
    trust: Trust,
    handshakes: asyncio.Semaphore,
    counters: Counters,
) -> Never:
    trust_domain = naming.trust_domain(naming.owner_of(PRODUCT), trust.mesh)
    async with contextlib.AsyncExitStack() as life:
        async with handshakes:
            key = new_key()
            profile = Profile(SpiffeId(trust_domain, f"/agent/{name}"))
            credentials = Credentials(key, authority.issue(profile, key.public_key()))
            me = Workload(credentials, trust, _LocalIssuer(authority))
            channel = await life.enter_async_context(
                me.channel(service, naming.server_name("service", trust_domain))
            )
            metadata, _ = await stream_metadata(me, trust_domain)
            call = pushing_on(channel, metadata)
            life.callback(call.cancel)
            await call.initial_metadata()
            certificates = wire.fields(PushRequest.CERTIFICATES_FIELD_NUMBER, credentials.certificates)
            stock = Stock(credentials, RECORDS, payloads=1)
            counters.connect()
        while True:
            started = time.monotonic()
            batch = stock.next(time.time_ns())
            await call.write(b"".join((certificates, *batch.request)))
            certificates = b""
            response = await call.read()
            if not isinstance(response, PushResponse) or not response.acks:
                raise RuntimeError(f"{name}: not acked: {response}")
            counters.count(RECORDS, batch.payload.bytes)
            counters.took(time.monotonic() - started)
            await asyncio.sleep(every)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True, help="beginning of each agent's name")
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--every", type=float, required=True, help="seconds between an agent's batches")
    parser.add_argument("--authority", type=Path, required=True, help="directory of the domain's authority")
    how = parser.parse_args()
    settings = read_or_exit(LoadSettings, "Simulated agents.")
    process.run(lambda stopping: run(settings, how, stopping))


if __name__ == "__main__":
    main()

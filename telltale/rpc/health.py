"""`python -m telltale.rpc.health HOST:PORT --server-name NAME`: a probe for container health checks."""

import argparse
import asyncio
import sys
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field

from telltale.errors import TelltaleError
from telltale.identity.bundle import Bundle, pem_of
from telltale.identity.credentials import Credentials
from telltale.identity.dialling import dial
from telltale.identity.files import read_pair
from telltale.settings import Settings

_TIMEOUT = 5.0


class ProbeSettings(Settings):
    """The probe runs beside its process and shows that process's certificate."""

    trust: Path = Field(description="Directory with root.pem.")
    state: Path | None = Field(
        None, description="Directory of the process; without it only an enrolment port answers."
    )
    certificate_file: Path | None = Field(None, description="Certificate of another PKI instead, in PEM.")
    key_file: Path | None = Field(None, description="Private key of that certificate.")

    def credentials(self) -> Credentials | None:
        """What the process shows too. Blocks."""
        if self.certificate_file is not None and self.key_file is not None:
            return read_pair(self.certificate_file, self.key_file)
        return Credentials.load(self.state) if self.state is not None else None


async def check(address: str, server_name: str, root_pem: bytes, credentials: Credentials | None) -> str:
    """The serving status of a server as a word; raises TelltaleError or AioRpcError when there is none."""
    async with dial(address, server_name, root_pem, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str] | None = None) -> int:
    """Prints one line; 0 when the server serves, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m telltale.rpc.health", description=__doc__)
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("--server-name", required=True, help="the name that the server has to prove")
    options = parser.parse_args(arguments)
    try:
        settings = ProbeSettings.read()
        credentials = settings.credentials()
        trust_domain = options.server_name.partition(".")[2]
        root_pem = pem_of(Bundle.load(settings.trust).roots_of(trust_domain))
        status = asyncio.run(check(options.address, options.server_name, root_pem, credentials))
    except (TelltaleError, OSError) as wrong:
        print(f"{options.server_name}: cannot be probed: {wrong}", file=sys.stderr)
        return 1
    except grpc.aio.AioRpcError as failed:
        said = f"{failed.code().name}: {failed.details()}"
        print(f"{options.server_name} at {options.address}: {said}", file=sys.stderr)
        return 1
    print(f"{options.server_name} at {options.address}: {status}")
    return 0 if status == "SERVING" else 1


if __name__ == "__main__":
    raise SystemExit(main())

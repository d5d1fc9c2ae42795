"""The limit: as many bytes as forwarding moves, over one bare TLS stream between two processes."""

import asyncio
import multiprocessing
import socket
import ssl
import tempfile
import time
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from bench.report import Figure, Section
from telltale.identity.keys import key_pem, new_key

_NAME = "localhost"
# What a batch of forwarding comes to.
_WRITE_BYTES = 1 << 20

METHOD = (
    "Two processes, one TLS 1.3 connection on loopback, Python's ssl on blocking sockets, writes of 1"
    " MiB, and nothing else: no gRPC, no signature, no disk. Forwarding moves each byte over four such"
    " hops."
)


async def measure(seconds: float) -> Section:
    rate, sender, receiver = await asyncio.to_thread(_transfer, seconds)
    figures = [
        Figure("one TLS stream", rate / 2**20, "MiB/s"),
        Figure("CPU of the sender", sender * 2**20 * 1e3, "ms/MiB"),
        Figure("CPU of the receiver", receiver * 2**20 * 1e3, "ms/MiB"),
    ]
    return Section("limit", METHOD, figures)


def _transfer(seconds: float) -> tuple[float, float, float]:
    """Bytes a second, and seconds of CPU for a byte at either end."""
    # Not forked: the parent has threads.
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    with tempfile.TemporaryDirectory() as directory:
        pem = _certificate(Path(directory))
        receiver = spawn.Process(target=_receive, args=(pem, theirs))
        receiver.start()
        # Its own end closes with it: then nobody waits for a receiver that has died.
        theirs.close()
        try:
            port = mine.recv()
            context = ssl.create_default_context(cafile=str(pem))
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname=_NAME) as stream,
            ):
                data = bytes(_WRITE_BYTES)
                start, cpu = time.monotonic(), time.thread_time()
                sent = 0
                while time.monotonic() < start + seconds:
                    stream.sendall(data)
                    sent += len(data)
                sender = (time.thread_time() - cpu) / sent
            received, took, used = mine.recv()
        finally:
            receiver.join(10)
            receiver.kill()
    return received / took, sender, used / received


def _receive(pem: Path, answers: Connection) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answers.send(listener.getsockname()[1])
        plain, _ = listener.accept()
    with context.wrap_socket(plain, server_side=True) as stream:
        buffer = bytearray(_WRITE_BYTES)
        received = stream.recv_into(buffer)
        start, cpu = time.monotonic(), time.process_time()
        while size := stream.recv_into(buffer):
            received += size
        answers.send((received, time.monotonic() - start, time.process_time() - cpu))


def _certificate(directory: Path) -> Path:
    """A certificate of its own for one run, with its key."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "limit.pem"
    path.write_bytes(key_pem(key) + certificate.public_bytes(Encoding.PEM))
    return path

"""A real LDAP server: OpenLDAP's slapd on loopback, with a database and certificates of its own."""

import contextlib
import ipaddress
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from telltale.identity.keys import key_pem, new_key
from tests.support.domain import free_port

BASE = "dc=example,dc=org"
PEOPLE = f"ou=people,{BASE}"
GROUPS = f"ou=groups,{BASE}"
READER = f"cn=telltale,{BASE}"
READER_PASSWORD = "reads and nothing else"
_ADMIN = f"cn=admin,{BASE}"
_ADMIN_PASSWORD = "for the test's own entries"
_SLAPD = "/usr/sbin/slapd"
_PATIENCE_SECONDS = 30.0

_CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {directory}/slapd.pid
argsfile {directory}/slapd.args
TLSCACertificateFile {directory}/ca.pem
TLSCertificateFile {directory}/server.pem
TLSCertificateKeyFile {directory}/server.key
# Nobody is asked anything before TLS stands, and nobody anonymous at all.
security tls=128
disallow bind_anon
database mdb
maxsize 16777216
suffix "{base}"
rootdn "{admin}"
rootpw "{admin_password}"
directory {directory}/data
overlay memberof
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{reader}" read by * none
"""


@dataclass(frozen=True)
class Directory:
    """A directory that serves."""

    ldap: str
    ldaps: str
    # The certificate that proves it.
    ca: Path
    password_file: Path

    def add(self, ldif: str) -> None:
        """Adds entries."""
        done = subprocess.run(
            ["ldapadd", "-x", "-H", self.ldaps, "-D", _ADMIN, "-w", _ADMIN_PASSWORD],
            input=ldif,
            env={**os.environ, "LDAPTLS_CACERT": str(self.ca), "LDAPTLS_REQCERT": "demand"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"ldapadd: {done.stderr}")

    def add_person(self, name: str) -> str:
        """Adds somebody; returns the distinguished name."""
        self.add(
            f"dn: uid={name},{PEOPLE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n"
        )
        return f"uid={name},{PEOPLE}"

    def add_group(self, name: str, *members: str) -> str:
        """Adds a group of these people; returns the distinguished name."""
        lines = "".join(f"member: {member}\n" for member in members)
        self.add(f"dn: cn={name},{GROUPS}\nobjectClass: groupOfNames\ncn: {name}\n{lines}")
        return f"cn={name},{GROUPS}"


@contextlib.contextmanager
def serving() -> Iterator[Directory]:
    """Serves an almost empty directory while the body runs."""
    if not os.access(_SLAPD, os.X_OK) or shutil.which("ldapadd") is None:
        raise RuntimeError("there is no slapd; run `make system` as root")
    with tempfile.TemporaryDirectory(prefix="slapd-") as name:
        directory = Path(name)
        (directory / "data").mkdir()
        authority_certificate(directory)
        (directory / "slapd.conf").write_text(
            _CONFIGURATION.format(
                directory=directory, base=BASE, admin=_ADMIN, admin_password=_ADMIN_PASSWORD, reader=READER
            )
        )
        (directory / "password").write_text(f"{READER_PASSWORD}\n")
        user = _unprivileged(directory)
        ldap, ldaps = f"ldap://127.0.0.1:{free_port()}", f"ldaps://127.0.0.1:{free_port()}"
        log = directory.parent / f"{directory.name}.log"
        with log.open("w") as output:
            # With -d it stays in the foreground.
            words = [_SLAPD, "-d", "0", "-f", str(directory / "slapd.conf"), "-h", f"{ldap}/ {ldaps}/"]
            process = subprocess.Popen(words, stdout=output, stderr=output, user=user)
            try:
                _wait(process, ldaps, log)
                served = Directory(ldap, ldaps, directory / "ca.pem", directory / "password")
                served.add(
                    f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\n"
                    "o: example\n\n"
                    f"dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n"
                    f"dn: {GROUPS}\nobjectClass: organizationalUnit\nou: groups\n\n"
                    f"dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n"
                    f"cn: telltale\nuserPassword: {READER_PASSWORD}\n"
                )
                yield served
            finally:
                process.terminate()
                process.wait(_PATIENCE_SECONDS)
                log.unlink()


def authority_certificate(directory: Path) -> Path:
    """Writes a certificate authority and a server of 127.0.0.1 that it vouches for; returns the authority."""
    ca_key, server_key = new_key(), new_key()
    ca = _certificate("directory authority", ca_key.public_key(), ca_key, None)
    server = _certificate("directory", server_key.public_key(), ca_key, ca)
    (directory / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    (directory / "server.pem").write_bytes(server.public_bytes(Encoding.PEM))
    (directory / "server.key").write_bytes(key_pem(server_key))
    return directory / "ca.pem"


def _certificate(
    name: str,
    public_key: ec.EllipticCurvePublicKey,
    signing_key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(signer, critical=False)
        .sign(signing_key, hashes.SHA256())
    )


def _unprivileged(directory: Path) -> int | None:
    """The account to run as: nobody's, where the tests run as root; it owns the directory then."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    return nobody.pw_uid


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    host, _, port = url.rpartition("/")[2].partition(":")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"slapd does not serve: {log.read_text()}")

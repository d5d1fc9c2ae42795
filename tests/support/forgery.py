"""What an attacker with an authority's key could make: leaves that the honest code refuses to issue."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from telltale.identity.credentials import Credentials
from telltale.identity.keys import new_key
from tests.support.mesh import Mesh


def forged(
    mesh: Mesh,
    domain: str,
    *names: str,
    start: timedelta = timedelta(minutes=-1),
    end: timedelta = timedelta(hours=1),
) -> Credentials:
    """A leaf by the domain's authority with any URIs and DNS names, valid from now + start to now + end."""
    authority = mesh.authorities[domain]
    key, now = new_key(), datetime.now(UTC)
    general = [x509.UniformResourceIdentifier(n) if "://" in n else x509.DNSName(n) for n in names]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged leaf")]))
        .issuer_name(authority._issuing.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority._issuing_key.public_key()), False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=True)
    leaf = builder.sign(authority._issuing_key, hashes.SHA256())
    return Credentials(key, (leaf.public_bytes(Encoding.DER), authority._issuing.public_bytes(Encoding.DER)))

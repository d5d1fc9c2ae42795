"""What stands in the mesh's certificates: the root, the constrained issuing authorities, the leaves."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from telltale.identity.credentials import dns_names_of, spiffe_id_of
from telltale.naming import SpiffeId

ROOT_LIFE = timedelta(days=3650)
ISSUING_LIFE = timedelta(days=730)
_PERSON = "/person/"
# Clocks of fresh machines lag; a certificate of the future would lock them out.
_BACKDATE = timedelta(minutes=1)


@dataclass(frozen=True)
class Profile:
    """Whom a leaf names. With DNS names it is a server's and a client's, without them a client's only."""

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...] = ()


def person(trust_domain: str, name: str) -> SpiffeId:
    """The identity of somebody who logs in, under a name that is safe in a path."""
    return SpiffeId.parse(f"spiffe://{trust_domain}{_PERSON}{name}")


def is_person(spiffe_id: SpiffeId) -> bool:
    """Whether an identity is had by a login only."""
    return spiffe_id.path.startswith(_PERSON)


def root_name(mesh: str) -> x509.Name:
    """The name of a mesh's root."""
    return _name(f"{mesh} root")


def root_certificate(
    key: ec.EllipticCurvePrivateKey, mesh: str, life: timedelta = ROOT_LIFE
) -> x509.Certificate:
    """The self-signed root of a mesh."""
    name = root_name(mesh)
    builder = _builder(name, name, key.public_key(), life)
    return _authority(builder, key.public_key(), key.public_key(), path_length=1).sign(key, hashes.SHA256())


def issuing_certificate(
    public_key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    extra_dns: tuple[str, ...] = (),
    life: timedelta = ISSUING_LIFE,
) -> x509.Certificate:
    """An issuing authority that can vouch for its own trust domain and, critically, for nothing else."""
    left = root.not_valid_after_utc - datetime.now(UTC)
    subject = _name(f"{trust_domain} issuing authority")
    builder = _builder(subject, root.subject, public_key, min(life, left))
    builder = _authority(builder, public_key, root_key.public_key(), path_length=0)
    constraints = x509.NameConstraints(
        # A URI constraint covers exactly this host, a DNS constraint the names below it too.
        permitted_subtrees=[
            x509.UniformResourceIdentifier(trust_domain),
            *(x509.DNSName(name) for name in (trust_domain, *extra_dns)),
        ],
        # Constraints of one kind of name leave other kinds free: no address is anybody's here.
        excluded_subtrees=[
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ],
    )
    own_name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")])
    return (
        builder.add_extension(constraints, critical=True)
        .add_extension(own_name, critical=False)
        .sign(root_key, hashes.SHA256())
    )


def leaf_certificate(
    profile: Profile,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    life: timedelta,
) -> x509.Certificate:
    """A workload's certificate. Its subject is empty: the SPIFFE ID is the only name that counts."""
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(profile.spiffe_id))]
    names += [x509.DNSName(name) for name in profile.dns_names]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if profile.dns_names:
        purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    left = issuer.not_valid_after_utc - datetime.now(UTC)
    return (
        _builder(x509.Name([]), issuer.subject, public_key, min(life, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )


def profile_of(leaf: x509.Certificate) -> Profile:
    """What a leaf says, for the next one of the same identity."""
    return Profile(spiffe_id_of(leaf), dns_names_of(leaf))


def is_past_half(certificate: x509.Certificate) -> bool:
    """Whether half of a certificate's life is over: time for the next one."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return datetime.now(UTC) >= certificate.not_valid_before_utc + life / 2


def trust_domain_of(issuing: x509.Certificate) -> str:
    """The trust domain that an issuing certificate is for; the bare SPIFFE ID among its own names."""
    names = issuing.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0].removeprefix("spiffe://")


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Lives of seconds, as in tests, are backdated by a part of themselves: half of it has to lie ahead.
        .not_valid_before(now - min(_BACKDATE, life / 4))
        .not_valid_after(now + life)
    )


def _authority(
    builder: x509.CertificateBuilder,
    public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    path_length: int,
) -> x509.CertificateBuilder:
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    # X.509 allows a common name of 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])

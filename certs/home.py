"""The directories of `certs init`: the root, one authority a trust domain, and the public trust bundle.

What is public is written before what relies on it: a bundle names a root or a token key before either signs
anything, and goes on naming it until the last thing that it signed has ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs import generations
from certs.generations import ISSUING_CERTIFICATE, Generation, fitting_key, make_key, write_public
from certs.profiles import (
    ISSUING_LIFE,
    ROOT_LIFE,
    is_past_half,
    issuing_certificate,
    root_certificate,
    root_name,
    trust_domain_of,
)
from telltale.errors import ConfigurationError, NotFound, Precondition
from telltale.identity.bundle import JWKS_SUFFIX, ROOT_FILE, parse_roots, pem_of
from telltale.identity.keys import key_pem, new_key, write_secret
from telltale.naming import PLATFORM, trust_domain

# The gateway is the one server that people and their tools reach without a name service.
_EXTRA_DNS = {PLATFORM: ("localhost",)}
_ROOT_KEY = "root.key"
_ROOT_KEYS = "root*.key"


@dataclass(frozen=True)
class Renewal:
    """What became of one domain's authority."""

    domain: str
    renewed: bool
    issuing: x509.Certificate
    # Whether another token key signs now; the first renewal of an old home only publishes the next one.
    token_key: bool = False


class Home:
    """A directory with `root/`, `authorities/<domain>/` and `trust/`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root"
        self.trust = directory / "trust"

    def authority(self, domain: str) -> Path:
        """The directory of a domain's authority."""
        return self.directory / "authorities" / domain

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that have an authority here."""
        found = self.directory.glob(f"authorities/*/{ISSUING_CERTIFICATE}")
        return tuple(sorted(path.parent.name for path in found))

    def init(
        self,
        mesh: str,
        domains: Sequence[str],
        *,
        root_life: timedelta = ROOT_LIFE,
        issuing_life: timedelta = ISSUING_LIFE,
    ) -> list[str]:
        """Makes what is missing and leaves what is there; returns the domains that are new.

        Raises ConfigurationError when the mesh's name differs, or when a domain is to be added and the
        root key has left this machine.
        """
        roots = self._roots(mesh, root_life)
        added = []
        for domain in domains:
            directory = self.authority(domain)
            if not (directory / ISSUING_CERTIFICATE).exists():
                if not self.root_key_is_here():
                    raise ConfigurationError(
                        f"{domain} cannot be added without the root key; "
                        f"bring {self.root / _ROOT_KEY} back for this command"
                    )
                key = make_key(directory / "issuing.key")
                issuing = self._sign(domain, trust_domain(domain, mesh), key, issuing_life)
                write_public(directory / ROOT_FILE, pem_of(roots))
                # The certificate last: it marks the authority as complete.
                generations.put_issuing(directory, issuing)
                added.append(domain)
            self._publish(domain, trust_domain(domain, mesh))
        return added

    def renew(
        self,
        domains: Sequence[str] = (),
        *,
        now: bool = False,
        issuing_life: timedelta = ISSUING_LIFE,
    ) -> list[Renewal]:
        """Gives authorities past half of their life, or with `now` all, a new key, certificate and token key.

        What the ones before have issued stays valid until its own end. Without anything to renew it still
        takes retired token keys out of the bundle whose last token has ended. Raises ConfigurationError when
        something is to be renewed and the root key is not there.
        """
        return [self._renew(domain, now, issuing_life) for domain in domains or self.domains]

    def add_root(self, life: timedelta = ROOT_LIFE) -> x509.Certificate:
        """A new root beside those before. It signs what is renewed from now on: the bundle goes out first."""
        before = self._held_roots()
        mesh = self._mesh()
        key = new_key()
        write_secret(self.root / f"root-{generations.key_id(key.public_key())}.key", key_pem(key))
        root = root_certificate(key, mesh, life)
        write_public(self.root / ROOT_FILE, pem_of((root, *before)))
        generations.forget_other_keys(self.root, _ROOT_KEYS, root)
        self._publish_all()
        return root

    def retire_root(self, sha256: str) -> None:
        """Takes a root out of the bundle: whatever leads to it is believed by nobody any more.

        Raises Precondition while an authority still stands on it.
        """
        roots = self._held_roots()
        retired = next((one for one in roots if _sha256(one) == sha256.lower()), None)
        if retired is None:
            known = ", ".join(map(_sha256, roots))
            raise NotFound(f"{self.root} holds no root with the SHA-256 {sha256[:80]!r}; it has {known}")
        leaning = [
            domain
            for domain in self.domains
            if _has_signed(retired, Generation.load(self.authority(domain)).issuing)
        ]
        if leaning or retired == roots[0]:
            raise Precondition(
                f"this root still carries {', '.join(leaning) or 'what will be renewed'}; "
                "make another with `certs add-root` and renew with `certs renew --now` first"
            )
        write_public(self.root / ROOT_FILE, pem_of(one for one in roots if one != retired))
        self._publish_all()

    def root_sha256(self) -> str:
        """The newest root certificate's SHA-256."""
        return _sha256(self._held_roots()[0])

    def root_key_is_here(self) -> bool:
        """Whether the root can sign on this machine."""
        try:
            fitting_key(self.root, _ROOT_KEYS, self._held_roots()[0])
        except ConfigurationError:
            return False
        return True

    def _renew(self, domain: str, now: bool, life: timedelta) -> Renewal:
        directory = self.authority(domain)
        present = Generation.load(directory).issuing
        name = trust_domain_of(present)
        self._publish(domain, name)
        if not now and not is_past_half(present):
            return Renewal(domain, False, present)
        if not self.root_key_is_here():
            raise ConfigurationError(
                f"{domain} cannot be renewed without the root key; bring it back to {self.root} "
                "for this command"
            )
        issuing = self._sign(domain, name, generations.new_issuing_key(directory), life)
        generations.put_issuing(directory, issuing)
        published = self._jwks(name).read_bytes()
        promoted = generations.promote_token_key(directory, published)
        self._publish(domain, name)
        return Renewal(domain, True, issuing, promoted)

    def _sign(
        self, domain: str, name: str, key: ec.EllipticCurvePrivateKey, life: timedelta
    ) -> x509.Certificate:
        root = self._held_roots()[0]
        root_key = fitting_key(self.root, _ROOT_KEYS, root)
        return issuing_certificate(key.public_key(), name, root, root_key, _EXTRA_DNS.get(domain, ()), life)

    def _roots(self, mesh: str, life: timedelta) -> tuple[x509.Certificate, ...]:
        path, key_path = self.root / ROOT_FILE, self.root / _ROOT_KEY
        published = self.trust / ROOT_FILE
        if not path.exists() and published.exists():
            # The root's directory was taken away as a whole. Another root would make strangers of everybody.
            write_public(path, published.read_bytes())
        if not path.exists():
            write_public(path, root_certificate(make_key(key_path), mesh, life).public_bytes(Encoding.PEM))
        roots = self._held_roots()
        if roots[0].subject != root_name(mesh):
            raise ConfigurationError(
                f"{self.directory} belongs to another mesh ({roots[0].subject.rfc4514_string()}); "
                "choose another --home, or name the same mesh"
            )
        return roots

    def _held_roots(self) -> tuple[x509.Certificate, ...]:
        """The roots of the mesh, the newest first."""
        path = self.root / ROOT_FILE
        try:
            return parse_roots(path.read_bytes(), ROOT_FILE)
        except (OSError, ConfigurationError) as broken:
            raise ConfigurationError(
                f"cannot read the root certificate {path}; make a mesh with `python -m certs init`"
            ) from broken

    def _mesh(self) -> str:
        """The name of the mesh, which every authority's own name ends with."""
        if not self.domains:
            raise Precondition(f"{self.directory} has no authority; make one with `python -m certs init`")
        issuing = Generation.load(self.authority(self.domains[0])).issuing
        return trust_domain_of(issuing).partition(".")[2]

    def _publish_all(self) -> None:
        for domain in self.domains:
            self._publish(domain, trust_domain_of(Generation.load(self.authority(domain)).issuing))

    def _publish(self, domain: str, name: str) -> None:
        """Puts what everybody may know into the trust bundle, and the roots beside the authority."""
        self.trust.mkdir(mode=0o755, parents=True, exist_ok=True)
        root_pem = pem_of(self._held_roots())
        write_public(self.trust / ROOT_FILE, root_pem)
        write_public(self.authority(domain) / ROOT_FILE, root_pem)
        jwks = self._jwks(name)
        before = jwks.read_bytes() if jwks.exists() else b""
        write_public(jwks, generations.published_token_keys(self.authority(domain), before))

    def _jwks(self, name: str) -> Path:
        return self.trust / f"{name}{JWKS_SUFFIX}"


def _sha256(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _has_signed(root: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except Exception:  # whatever makes it unverifiable, this root has not signed it
        return False
    return True

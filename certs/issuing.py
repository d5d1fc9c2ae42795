"""One trust domain's authority: it issues leaves and tokens within the trust domain, and no others."""

import hashlib
import secrets
import threading
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certs.generations import Generation, key_id
from certs.profiles import Profile, is_person, leaf_certificate, trust_domain_of
from telltale.errors import ConfigurationError, InvalidInput, Unauthenticated
from telltale.identity.credentials import Credentials
from telltale.identity.enrolment import IssuedToken
from telltale.identity.keys import new_key
from telltale.identity.tokens import ALGORITHM, LONGEST_LIFE, confirmation
from telltale.identity.trust import Trust
from telltale.naming import OPERATORS, SpiffeId, domain_of, server_name

LEAF_LIFE = timedelta(hours=24)
_LARGEST_REQUEST = 4 * 1024
_MOST_AUDIENCES = 16


class IssuingAuthority:
    """Holds the issuing key and the token key of one trust domain, of the generation of the moment.

    `trust` knows the roots of the mesh and nothing else. Any thread may ask.
    """

    def __init__(
        self,
        generation: Generation,
        directory: Path,
        *,
        leaf_life: timedelta = LEAF_LIFE,
        token_life: timedelta = LONGEST_LIFE,
    ) -> None:
        self.trust_domain = trust_domain_of(generation.issuing)
        self.mesh = self.trust_domain.partition(".")[2]
        self.spiffe_id = SpiffeId(self.trust_domain, "/authority")
        self.server_name = server_name("authority", self.trust_domain)
        self.trust = Trust.load(directory, self.mesh)
        self._directory = directory
        self._lock = threading.Lock()
        self._take(generation)
        self._leaf_life = leaf_life
        self._token_life = token_life

    @classmethod
    def load(
        cls, directory: Path, *, leaf_life: timedelta = LEAF_LIFE, token_life: timedelta = LONGEST_LIFE
    ) -> "IssuingAuthority":
        """Reads what `certs init` made. Blocks."""
        return cls(Generation.load(directory), directory, leaf_life=leaf_life, token_life=token_life)

    def refresh(self) -> bool:
        """Takes up what `certs renew` has left in the directory; whether there was anything new.

        Raises ConfigurationError when it cannot be read, and goes on as before. Blocks.
        """
        self.trust.refresh()
        generation = Generation.load(self._directory)
        if (generation.issuing, generation.token_key.public_key()) == (
            self._issuing,
            self._token_key.public_key(),
        ):
            return False
        if trust_domain_of(generation.issuing) != self.trust_domain:
            raise ConfigurationError(
                f"{self._directory} has become the authority of {trust_domain_of(generation.issuing)}; "
                f"bring the one of {self.trust_domain} back, or start again"
            )
        self._take(generation)
        return True

    def _take(self, generation: Generation) -> None:
        # A leaf or a token is made with one generation, never with parts of two.
        with self._lock:
            self._issuing_key, self._issuing = generation.issuing_key, generation.issuing
            self._token_key = generation.token_key
            self._token_key_id = key_id(generation.token_key.public_key())

    @property
    def issuing(self) -> x509.Certificate:
        """The certificate that leaves are issued with now."""
        return self._issuing

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The roots of the mesh in DER, the one that has signed this authority first."""
        signer = self.trust.root_of(self._issuing)
        roots = sorted(self.trust.bundle.roots, key=lambda root: root != signer)
        return tuple(root.public_bytes(Encoding.DER) for root in roots)

    @property
    def root_sha256(self) -> bytes:
        """By which a newcomer knows this mesh."""
        return hashlib.sha256(self.roots[0]).digest()

    def issue(
        self, profile: Profile, public_key: ec.EllipticCurvePublicKey, ends: datetime | None = None
    ) -> tuple[bytes, ...]:
        """A leaf for this identity and its issuer, in DER; it ends with the session, where that has an end.

        Raises InvalidInput for a foreign name, Unauthenticated when the session has ended.
        """
        self.check(profile)
        life = self._leaf_life
        if ends is not None:
            life = min(life, ends - datetime.now(UTC))
            if life <= timedelta(0):
                raise Unauthenticated(f"the session of {profile.spiffe_id} has ended; log in again")
        with self._lock:
            issuing, issuing_key = self._issuing, self._issuing_key
        leaf = leaf_certificate(profile, public_key, issuing, issuing_key, life)
        return (leaf.public_bytes(Encoding.DER), issuing.public_bytes(Encoding.DER))

    def check_newcomer(self, profile: Profile) -> None:
        """Raises InvalidInput when nobody may join as this identity."""
        if profile.spiffe_id == self.spiffe_id:
            raise InvalidInput(f"{profile.spiffe_id} is the authority itself; choose another path")
        if is_person(profile.spiffe_id):
            raise InvalidInput(f"{profile.spiffe_id} is a person's, who logs in; choose another path")
        self.check(profile)

    def check(self, profile: Profile) -> None:
        """Raises InvalidInput when the name constraints or the rules of the domain forbid such a leaf."""
        if profile.spiffe_id.trust_domain != self.trust_domain:
            raise InvalidInput(
                f"{profile.spiffe_id} is not of {self.trust_domain}; its own authority issues for it"
            )
        own = profile.spiffe_id == self.spiffe_id
        if profile.dns_names and not own and domain_of(self.trust_domain, self.mesh) == OPERATORS:
            raise InvalidInput("operators are people and serve nothing: leave the DNS names out")
        constraints = self._issuing.extensions.get_extension_for_class(x509.NameConstraints).value
        permitted = [
            tree.value for tree in constraints.permitted_subtrees or () if isinstance(tree, x509.DNSName)
        ]
        for name in profile.dns_names:
            if not any(name == tree or name.endswith(f".{tree}") for tree in permitted):
                raise InvalidInput(
                    f"the DNS name {name[:200]!r} is not below {self.trust_domain}; choose another"
                )

    def own_credentials(self) -> Credentials:
        """A new key and leaf for the authority's own server."""
        key = new_key()
        profile = Profile(self.spiffe_id, (self.server_name,))
        return Credentials(key, self.issue(profile, key.public_key()))

    def issue_token(
        self,
        subject: SpiffeId,
        thumbprint: bytes,
        audiences: Sequence[str],
        not_after: datetime,
        groups: Collection[str] = (),
    ) -> IssuedToken:
        """A token for one certificate. It ends with the certificate if not before."""
        if subject.trust_domain != self.trust_domain:
            raise InvalidInput(
                f"{subject} is not of {self.trust_domain}; its own authority issues its tokens"
            )
        wanted = sorted(set(audiences))
        if not 1 <= len(wanted) <= _MOST_AUDIENCES:
            raise InvalidInput(f"a token needs 1 to {_MOST_AUDIENCES} audiences, got {len(wanted)}")
        for audience in wanted:
            domain_of(audience, self.mesh)
        now = datetime.now(UTC).replace(microsecond=0)
        expires = min(now + min(self._token_life, LONGEST_LIFE), not_after)
        claims: dict[str, Any] = {
            "iss": self.trust_domain,
            "sub": str(subject),
            "aud": wanted,
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "jti": secrets.token_urlsafe(12),
            "cnf": {"x5t#S256": confirmation(thumbprint)},
        }
        if groups:
            claims["groups"] = sorted(groups)
        with self._lock:
            key, kid = self._token_key, self._token_key_id
        text = jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": kid})
        return IssuedToken(text, expires)


class OwnIssuer:
    """The authority as the issuer of its own server's identity: no wire in between."""

    def __init__(self, authority: IssuingAuthority) -> None:
        self._authority = authority

    async def renew(self, credentials: Credentials) -> Credentials:
        return self._authority.own_credentials()

    async def token(self, credentials: Credentials, audiences: Sequence[str]) -> IssuedToken:
        return self._authority.issue_token(
            credentials.spiffe_id, credentials.thumbprint, audiences, credentials.not_after
        )


def requested_key(signing_request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a PKCS #10 request, whose owner has signed it. All else that it says is ignored."""
    if len(signing_request) > _LARGEST_REQUEST:
        raise InvalidInput(
            f"a signing request of {len(signing_request)} bytes is too large; {_LARGEST_REQUEST} is the most"
        )
    try:
        request = x509.load_der_x509_csr(signing_request)
        public_key = request.public_key()
        signed = request.is_signature_valid
    except Exception as broken:  # the parser's own errors are of many types, and the bytes are a stranger's
        raise InvalidInput("the signing request is no readable PKCS #10 in DER") from broken
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, ec.SECP256R1
    ):
        raise InvalidInput("the signing request's key is not P-256; make a P-256 key")
    if not signed:
        raise InvalidInput("the signing request is not signed by its own key")
    return public_key

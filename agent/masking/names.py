"""Secrets that are known by the name before them: of a flag, a variable, a header, a key."""

import re
from itertools import pairwise

from agent.masking.shapes import MASK

# A name is split into words at punctuation and humps. It is secret-like when one of them is one of these ...
_SECRET_WORDS = frozenset(
    """password passwords passwd passwds pwd pass passphrase passcode pw psw pin secret secrets token tokens
    jwt bearer credential credentials cred creds auth authorization apikey accesskey privatekey secretkey
    authkey cookie""".split()
)
# ... or ends in one of these ...
_SECRET_ENDINGS = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "pwd",
    "secretkey",
    "accesskey",
    "authorization",
)
# ... or one of these comes before `key`.
_KINDS_OF_KEY = frozenset(
    """api access private secret auth account encryption signing master shared storage client license deploy
    session app application subscription consumer""".split()
)
# Unless its last word says that the value only points at the secret, or describes it.
_HARMLESS_LAST_WORDS = frozenset(
    """file files path dir directory filename location type mode method methods scheme url uri endpoint
    server host ttl timeout expiry expiration lifetime length size limit count policy name stdin prompt env
    provider realm domain plugin backend enabled required disabled algorithm algorithms fd sock socket version
    format""".split()
)
# Unless its first word says that there is none.
_HARMLESS_FIRST_WORDS = frozenset(("no", "skip", "disable", "without", "ask", "prompt"))
# `--max-tokens` counts.
_COUNTING_WORDS = frozenset(("max", "min", "num", "number", "count", "limit", "total"))

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PUNCTUATION = re.compile(r"[^A-Za-z0-9]+")
# What a long name holds is said at its end.
_MAX_NAME = 128


def is_secret_name(name: str) -> bool:
    """Whether what a flag, variable, header or key of this name holds is a secret."""
    split = _PUNCTUATION.split(_HUMP.sub("-", name[-_MAX_NAME:]))
    words = [stem for word in split if (stem := word.lower().rstrip("0123456789"))]
    if not words or words[-1] in _HARMLESS_LAST_WORDS or words[0] in _HARMLESS_FIRST_WORDS:
        return False
    if words[-1] == "tokens" and not _COUNTING_WORDS.isdisjoint(words):
        return False
    if any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words):
        return True
    return any(kind in _KINDS_OF_KEY and word in ("key", "keys") for kind, word in pairwise(words))


# A name and what parts it from its value: `name=`, `"name": `, `Name: `, `name => `. Only where a name
# begins, and without giving back what was read, so that a long text is read once.
_NAME = re.compile(r"""(?<![\w.-])([\w.-]++)(?:\\?["'])?+\s{0,4}+(?:=>|[=:])\s{0,4}+""")
_VALUE = re.compile(r"""\\?"(?:[^"\\]|\\[^"])*+(?:\\?")?|'[^']*+'?|[^\s&;,"'<>]++""")
# These last to the end of the line, or of the quotes around it.
_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
_HEADER_VALUE = re.compile(r"""[^\r\n"']++""")
# A scheme of HTTP authentication that stands before the secret.
_SCHEMES = frozenset(("bearer", "basic", "token", "digest", "negotiate"))
_AFTER_SCHEME = re.compile(r"""[ \t]++[^\s"']++""")
_OPENING = re.compile(r"""\\?["']""")


def mask_pairs(text: str) -> str:
    """Masks the values of secret-like names anywhere in a text."""
    parts = []
    done = at = 0
    while found := _NAME.search(text, at):
        at = found.end()
        name, between = found.group(1), found.group()[len(found.group(1)) :]
        # `https://` is a scheme, `a::b` a path of modules, `/run/secrets:/x` a mount, `/auth:1.2` an image.
        is_path = between == ":" and text.endswith("/", 0, found.start())
        if is_path or text.startswith(("//", ":"), at):
            continue
        is_header = ":" in between and name.lower() in _HEADERS
        if not is_header and not is_secret_name(name):
            continue
        value = (_HEADER_VALUE if is_header else _VALUE).match(text, at)
        if value is None:
            continue
        opening = _OPENING.match(value.group())
        quote = opening.group() if opening else ""
        closing = quote if quote and len(value.group()) > len(quote) and value.group().endswith(quote) else ""
        parts += [text[done:at], quote, MASK, closing]
        done = at = value.end()
        if value.group().lower() in _SCHEMES and (credentials := _AFTER_SCHEME.match(text, at)):
            done = at = credentials.end()
    return "".join([*parts, text[done:]])

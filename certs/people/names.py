"""A person's name at the provider as a part of a SPIFFE path: two names never become one identity.

Letters, digits, `.` and `-` stay; `_` becomes `__`, and every other byte of UTF-8 `_` and two
hexadecimal digits: `anna.smith@example.org` is `anna.smith_40example.org`.
"""

import string

from telltale.errors import Unauthenticated

_PLAIN = frozenset((string.ascii_letters + string.digits + ".-").encode())
_LONGEST = 128


def path_name(name: str) -> str:
    """The name as a part of a path; raises Unauthenticated for one that nobody should have."""
    if not name or not name.isprintable() or name != name.strip():
        raise Unauthenticated(
            "the provider's name for this person is empty or cannot be printed; mend it there"
        )
    encoded = "".join(_encoded(byte, first=number == 0) for number, byte in enumerate(name.encode()))
    if len(encoded) > _LONGEST:
        raise Unauthenticated(
            f"the provider's name for this person takes {len(encoded)} characters; {_LONGEST} are the most"
        )
    return encoded


def _encoded(byte: int, *, first: bool) -> str:
    if byte == ord("_"):
        return "__"
    # No name is a relative path or a hidden file.
    if byte in _PLAIN and not (first and byte == ord(".")):
        return chr(byte)
    return f"_{byte:02x}"

"""Secrets that are known by their own shape, whatever stands before them."""

import math
import re
from collections import Counter

MASK = "***"

# Every pattern begins with something rare and never repeats a repetition: the time is linear in the text.
_KEY_BLOCK = re.compile(
    # A block may be cut at its end.
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,60}-----|\Z)"
)
# The name and password in a URL; a password may hold an @ of its own.
_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'<>]{0,512}@")
# A password that breaks the rules of URLs: something other than a port stands where a port would.
_BROKEN_USERINFO = re.compile(
    r"(?<=://)[^\s/?#:@\"'<>]{0,128}:(?![0-9]{0,5}(?:[/?#\s\"'<>]|$))[^\s@]{0,256}@"
)
_SCHEME = re.compile(r"(?i)(?<![\w-])(bearer|basic|negotiate)([ \t]{1,4})[\w.~+/=-]{6,}")
# JSON Web Tokens, and any JSON object in base64, which is how registries and clusters hand out credentials.
_BASE64_JSON = re.compile(r"(?<![A-Za-z0-9_])eyJ[A-Za-z0-9_-]{8,}+[A-Za-z0-9_.=+/-]*+")
# Web hooks carry their secret in the path.
_WEB_HOOK = re.compile(
    r"((?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/)[\w/-]++"
)

_WELL_KNOWN = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    + "|".join(
        (
            r"gh[pousr]_[A-Za-z0-9]{16,}",  # GitHub
            r"github_pat_\w{16,}",
            r"gl(?:pat|rt|dt|ptt|oas|cbt|soat|ft)-[\w.-]{16,}",  # GitLab
            r"xox[a-z]-[\w-]{10,}",  # Slack
            r"xoxe\.[\w.-]{10,}",
            r"xapp-[\w-]{10,}",
            r"(?:AKIA|ASIA|AROA|AIDA|AGPA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
            r"AIza[\w-]{30,}",  # Google
            r"ya29\.[\w.-]{16,}",
            r"GOCSPX-[\w-]{16,}",
            r"[sr]k_(?:live|test)_\w{10,}",  # Stripe
            r"whsec_\w{16,}",
            r"sk-[\w-]{20,}",  # providers of language models
            r"hf_[A-Za-z0-9]{30,}",
            r"npm_[A-Za-z0-9]{30,}",  # package registries
            r"pypi-[\w-]{30,}",
            r"dckr_pat_[\w-]{16,}",
            r"hv[sbr]\.[\w-]{16,}",  # Vault
            r"do[opr]_v1_[a-f0-9]{32,}",  # DigitalOcean
            r"SG\.[\w-]{16,64}\.[\w-]{16,}",  # SendGrid
            r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",  # Shopify
            r"sq0[a-z]{3}-[\w-]{20,}",  # Square
            r"glsa_\w{32,}",  # Grafana
            r"NRAK-[A-Z0-9]{20,}",  # New Relic
            r"ATATT[\w=-]{20,}",  # Atlassian
            r"tskey-[\w-]{16,}",  # Tailscale
            r"AGE-SECRET-KEY-1[A-Z0-9]{20,}",  # age
        )
    )
    + ")"
)
# Secret access keys of AWS have no mark, only a length and their disorder.
_FORTY = re.compile(r"(?<![A-Za-z0-9/+=_.-])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=_.-])")
# Forty random characters of base64 have 4.8 bits each, give or take 0.1; forty of a name have about 3.8.
_MIN_ENTROPY_BITS = 4.3


def mask_shapes(text: str) -> str:
    """Masks what looks like a secret by itself."""
    text = _KEY_BLOCK.sub(MASK, text)
    text = _USERINFO.sub(f"{MASK}@", text)
    text = _BROKEN_USERINFO.sub(f"{MASK}@", text)
    text = _SCHEME.sub(rf"\1\2{MASK}", text)
    text = _BASE64_JSON.sub(MASK, text)
    text = _WELL_KNOWN.sub(MASK, text)
    text = _WEB_HOOK.sub(rf"\1{MASK}", text)
    return _FORTY.sub(lambda found: MASK if looks_random(found.group()) else found.group(), text)


def looks_random(word: str) -> bool:
    """Whether a word is a key in base64: of all kinds of characters, in disorder, and no path."""
    if word.startswith("/") and word.count("/") > 1:
        return False
    if not all(re.search(kind, word) for kind in ("[a-z]", "[A-Z]", "[0-9]")):
        return False
    shares = [count / len(word) for count in Counter(word).values()]
    return -sum(share * math.log2(share) for share in shares) >= _MIN_ENTROPY_BITS

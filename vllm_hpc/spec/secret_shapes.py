"""What a secret looks like, by its name or by its value; ``redact`` is how one is shown.

``spec/no_secrets.py`` refuses them where they would be written to a file. Every error of vllm-hpc is redacted
(``spec/errors.py``). Rows are the user's data, and nobody looks for secrets in them.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import cache

SHORT = "…"

# Parts of names, after camelCase was split with underscores. KEY, PASS and the like count at the end of a name only.
_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASSWORT|PASSCODE|(API|PRIVATE|ACCESS)_?KEY|CREDENTIAL|JWT|BEARER"
    r"|AUTHORIZATION|WEBHOOK|CONN(ECTION)?_STR(ING)?|(^|_)(PAT|PWD|PW|PSWD|CREDS?)(_|$)|(_|^)(AUTH|COOKIE)$|.PASS$|PWD$"
    r"|.(API|AI|AUTH)KEY$",
    re.IGNORECASE,
)
# Names that are only guessed to be a secret's: a short number is none (NUM_KEYS=3, SEED_KEY=12, PASS=2).
_GUESSED_NAME = re.compile(r"._KEYS?$|^PASS$", re.IGNORECASE)
_SHORT_NUMBER = re.compile(r"[0-9]{1,6}")
# Names that only sound like a secret: numbers of tokens, special tokens of tokenizers, keys of tables, passes.
_NO_SECRET = re.compile(
    r"TOKENIZERS?(_|$).*|SKIP_TOKENIZER.*|(.*_)?MAX_.*TOKENS|(?!.*(API|AUTH|ACCESS|SECRET)_TOKENS)(.*_)?TOKENS(_PER_.*)?"
    r"|.*_TOKEN_(IDS?|INDEX|INDICES|TYPE.*|STR|MAP)|(.*_)?TOKENS?_(LIMIT|COUNT|SIZE|LEN|LENGTH|BUDGET|RATE|DIM|TTL|TIMEOUT)"
    r"|(.*_)?(BOS|EOS|PAD|UNK|CLS|SEP|MASK|IMAGE|VIDEO|AUDIO|START|END|STOP|SPECIAL|THINK|IM|VISION|SPEECH)_TOKEN"
    r"|PER_TOKEN|.*_PER_TOKEN|(OLD)?PWD|.*(BY|COM|SUR|TRES|ENCOM)PASS|(ONE|TWO|SINGLE|MULTI|FIRST|SECOND|FORWARD|BACKWARD)_?PASS"
    r"|(.*_)?(PUBLIC|PUB|PRIMARY|FOREIGN|PARTITION|SORT|ORDER|CACHE|GROUP|INDEX|HASH|LOOKUP|ROW|SHARD|DICT|QUERY)_KEYS?"
    r"|(REQUIRED|EXTRA|ALLOWED|IGNORE|IGNORED|MISSING|UNEXPECTED|STATE_DICT)_KEYS",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# A name that says where a secret is, if its value is a path.
_PLACE_NAME = re.compile(r"(.*_)?(FILE|PATH|DIR|HOME|CREDENTIALS|KEY|NETRC)", re.IGNORECASE)
_PLACE = re.compile(r"(/|~/|\./|\.\./|\$HOME/|\$\{HOME\}/)[^\s:]*")
# What no secret is: nothing, switches (HF_HUB_DISABLE_IMPLICIT_TOKEN=1), and special tokens of tokenizers (<s>, [PAD]).
_SWITCH = re.compile(r"|0|1|true|false|yes|no|on|off|none|null|<\S{0,40}>|\[\S{0,40}\]", re.IGNORECASE)

# In the words of tokens: letters and digits, of which some are no lower-case letters unless it is long.
_WORD = r"(?:(?=[a-z]{0,60}[A-Z0-9])[A-Za-z0-9]{14,}|[a-z]{30,})"
_WORDS = r"(?=[a-z_-]{0,60}[A-Z0-9])[A-Za-z0-9_-]{16,}"
# Each begins with what is shown of it. Lengths are bounded: no input may take quadratic time.
_SHAPES = (
    # Hugging Face, GitHub, npm, Replicate, Groq, Stripe; OpenAI, xAI, Perplexity.
    rf"(?<![A-Za-z0-9])((?:hf|gh[opusr]|npm|r8|gsk|[rs]k_(?:live|test))_|(?:sk|xai|pplx)-){_WORD}",
    r"(?<![A-Za-z0-9])((?:github_pat|dckr_pat|dop_v1|hf_oauth|lin_api|shpat|api_org)_|(?:nvapi|glpat|gl[a-z]{2,5}t"
    r"|GOCSPX|xox[a-z]|xapp|ATATT3|sntrys|sgp|pypi)-|(?:hvs|ya29|SG)\.|AIza"
    r"|sk-(?:proj|svcacct|admin|service|or-v1|lf|live|test|None|ant(?:-[a-z0-9]{1,8})?)-)"
    rf"{_WORDS}",
    r"(?<![A-Za-z0-9])(dapi)[0-9a-f]{32}",
    r"(?<![A-Za-z0-9])(A(?:KIA|SIA|BIA|CCA))[A-Z0-9]{16}(?![A-Za-z0-9])",
    # JSON web tokens: an object in base64, another one or its cipher, and a signature.
    r"(?<![A-Za-z0-9])(eyJ)[\w-]{6,300}\.[\w-]{10,}(?:\.[\w-]+){0,4}",
    r"(-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY)(?: BLOCK)?-----"
    r"(?s:.{0,20000}?-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|.*)",
    r"(AGE-SECRET-KEY-)[0-9A-Z]{40,}",
    r"(hooks\.slack\.com/\w{1,20}/)[\w/+]{16,}",
    r"(?<![0-9])([0-9]{8,10}:)AA[\w-]{33}(?![\w-])",
)
# A reference is no secret: $NAME and $(command), which the shell fills in, and a template's {{ field }}.
_FILLED = r"(?!\$|`|\{\{|<)"
# The password of a URL, with a user or without; not the tag of an image before its digest, or a port before a path.
_URL = rf"(?i)([a-z][a-z0-9+.-]{{0,30}}://)[^\s/?#@:'\"]{{0,200}}:{_FILLED}(?![0-9]{{1,5}}(?:[/'\"\s,;)\]]|$))\S{{1,500}}@(?!sha[0-9]+:)"
# A token in the place of the user, as for git.
_URL_USER = r"(?i)(https?://)(?=[^\s/?#@:]{0,200}[0-9])[^\s/?#@:$]{16,200}@"
_BEARER = rf"(?i)(?<![A-Za-z0-9])(Bearer\s{{1,9}}){_FILLED}(?=[a-z._~+/-]{{0,60}}[0-9=])[A-Za-z0-9._~+/-]{{6,}}={{0,2}}"
_HEADER = (
    rf"(?i)((?:proxy-)?authorization[\"']?\s{{0,9}}[:=]\s{{0,9}}[\"']?(?:(?:bearer|basic|token|digest)\s{{1,9}})?)"
    rf"(?!(?:bearer|basic|token|digest)\s){_FILLED}[^\s\"'$]{{4,}}"
)
_BASIC = re.compile(r"(?i)(?<![A-Za-z0-9])(Basic\s{1,9})([A-Za-z0-9+/_-]{6,2000}={0,2})(?![A-Za-z0-9+/=])")
_QUERY = re.compile(rf"(?<=[?&])([\w.-]{{1,60}}=){_FILLED}([^&\s#'\"]+)")
_SIGNED = re.compile(r"sig|signature|X-Amz-Signature|X-Goog-Signature|key|apikey|code", re.IGNORECASE)

# NAME=value in text. The lookahead leaves the value: in --export=API_KEY=x it starts with the next name.
# The lookbehind stops a long word from being matched again from each of its letters.
ASSIGNMENT = re.compile(r"(?<![\w-])([\w-]+)(?:\[[^\]\s]*\])?\+?=(?=\S)")
# A value that the shell gets from elsewhere ($(...), `...`, $NAME, ${NAME}, ${NAME:-}, ${NAME:?...}), or an empty one.
REFERENCE = re.compile(
    r""""?(\$\((?!\s*(?:echo|printf)\s[^$`]*\)).*\)|`(?!\s*(?:echo|printf)\s)[^`]*`|\$\w+|\$\{\w+(:?-|:?\?[^}]*)?\})"?"""
    r"""(?=[\s;&|)]|$)|(""|'')(?=[\s;&|)]|$)"""
)
_ASSIGNED = re.compile(r"(?<![\w-])([\w-]+)=(\"[^\"]*\"|'[^']*'|[^\s'\",;)]+)")


def is_secret(name: str) -> bool:
    """Whether the name of a variable or an argument looks like that of a secret."""
    plain = _words(name)
    is_like_one = _SECRET_NAME.search(plain) or _GUESSED_NAME.search(plain)
    return bool(is_like_one) and not _NO_SECRET.fullmatch(plain)


def is_secret_value(name: str, value: str) -> bool:
    """Whether ``value`` is a secret because of its name: not a switch, nor the path of a file that has it."""
    if not is_secret(name) or _SWITCH.fullmatch(value):
        return False
    if _SHORT_NUMBER.fullmatch(value) and not _SECRET_NAME.search(_words(name)):
        return False
    return not (_PLACE_NAME.fullmatch(_CAMEL.sub("_", name)) and _PLACE.fullmatch(value))


def _words(name: str) -> str:
    """A name with its words apart: clientSecret as client_Secret."""
    return _CAMEL.sub("_", name.strip("-").replace("-", "_"))


def shown_secret(text: str) -> str | None:
    """The first secret in a text that is known by its shape, as it may be shown (hf_…); None if there is none."""
    found = [match for pattern in _patterns() if (match := pattern.search(text))]
    first = min(found, key=re.Match.start, default=None)
    if first is not None:
        return _show(first)
    odd = _first_basic(text) or _first_query(text)
    return odd and f"{odd}{SHORT}"


def redact(text: str) -> str:
    """The text with every secret in it cut to how it begins: hf_…, https://…@, HF_TOKEN=…."""
    for pattern in _patterns():
        text = pattern.sub(_show, text)
    text = _BASIC.sub(lambda match: f"{match[1]}{SHORT}" if _is_pair(match[2]) else match[0], text)
    text = _QUERY.sub(lambda match: f"{match[1]}{SHORT}" if _is_signed(match) else match[0], text)
    return _ASSIGNED.sub(_show_assigned, text)


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    """Compiled when something is first looked at: ``vllm-hpc --help`` should not wait for it."""
    return tuple(re.compile(shape) for shape in (*_SHAPES, _URL, _URL_USER, _HEADER, _BEARER))


def _show(match: re.Match[str]) -> str:
    return f"{match[1]}{SHORT}{'@' if match[0].endswith('@') else ''}"


def _show_assigned(match: re.Match[str]) -> str:
    value = match[2].strip("\"'")
    is_shown = value.startswith(("$", "`", SHORT, "...")) or not is_secret_value(match[1].strip("-"), value)
    return match[0] if is_shown else f"{match[1]}={SHORT}"


def _first_basic(text: str) -> str | None:
    return next((match[1] for match in _BASIC.finditer(text) if _is_pair(match[2])), None)


def _first_query(text: str) -> str | None:
    return next((match[1] for match in _QUERY.finditer(text) if _is_signed(match)), None)


def _is_signed(match: re.Match[str]) -> bool:
    name = match[1][:-1]
    return bool(_SIGNED.fullmatch(name)) or is_secret_value(name, match[2])


def _is_pair(word: str) -> bool:
    """Whether a word is user:password in base64."""
    try:
        return b":" in base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False

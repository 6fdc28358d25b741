"""Secrets that must not be seen in logs, errors and settings, and addresses that may hold some."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

MASK = "***"
DEEPEST = 5  # layers of a command line within a command line

_NAMED = r"(?:password|passwd|secret|apikey|(?<!public)[_-]key|(?<![a-z])token)"
_SECRETS = re.compile(
    rf"""(?P<keep>
        [?&](?:sig|sv_sig|token|access_token|code|client_secret|(?:x-[a-z]+-)?(?:signature|credential))=  # a link
      | (?:AccountKey|SharedAccessSignature|SharedAccessKey)=                      # a connection string
      | https://(?:hooks\.slack(?:-gov)?\.com|[\w-]+\.webhook\.office\.com)/        # a webhook
      | \b(?:Bearer|Basic)\s+                                                      # an Authorization header
      | {_NAMED}["']?\s*[=:]\s*["']?                                               # name=value
    )(?P<secret>[^\s"'&;]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"(https?://)[^/\s'\"]+@", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(://[^/\s:@]+:)[^\s\"'&;@/]+(?=@)")
_SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|pwd|secret|token(?!s|iz)|credential|(api|account|access|shared|private)[_-]?key|\bsas\b"
    r"|connection[_-]?string"
    r"|(^|[-_.])(pass|auth|pat|(?<!public[-_])key)$|pw$|(?-i:[a-z0-9](?<!public)Key$)",
    re.IGNORECASE,
)
_WEBHOOK = re.compile(r"webhook|(^|[-_])notify$", re.IGNORECASE)  # of which an address is secret as a whole
_COUNTED = re.compile(  # of what a number is no secret: `--token_count 5`, `--max_token 9`, `--pad_token_id 0`
    r"^[-\w.]*?(?:(?:^|[-_.])(?:num|n|max|min)[-_]token"
    r"|token[-_](?:count|size|len|length|num|dim|limit|rate|dropout|id|idx|index|weight))$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[\"']?[-+]?\d{1,9}(?:\.\d{1,9})?[\"']?")
_TOKEN = re.compile(r"\b(?:gh[pousr]_|github_pat_|hf_)\w{20,}")
_JWT = re.compile(  # the look ahead is once for all that stands before a dot: each `-eyJ` in it would look as far again
    r"(?<![\w-])(?=[\w-]+\.[\w-]{4,}\.)(?P<before>[\w-]*?)\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"
)
_ASSIGNMENT = re.compile(
    r"(?P<before>(?:-e|--env(?:[-_]var)?=)?(?P<quote>[\"']?)(?P<name>[\w.-]+)=)(?P<value>.*)", re.DOTALL
)
_WORD = re.compile(r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s])+?(?=\s|$)")


def redact(text: str) -> str:
    """*text* with the values of signatures, keys, passwords and tokens replaced by `***`."""
    text = _PASSWORD_IN_URL.sub(rf"\1{MASK}", _USER_IN_URL.sub(rf"\1{MASK}@", text))
    text = _JWT.sub(rf"\g<before>{MASK}", _SECRETS.sub(lambda found: found["keep"] + MASK, text))
    return _TOKEN.sub(MASK, text)


def mask_arguments(arguments: Sequence[str], depth: int = DEEPEST) -> list[str]:
    """A command line's arguments with secrets masked: by shape, and by name in `--name value`, `--name=value`,
    `NAME=value` and `-e NAME=value`.

    An argument that is itself a command line (`--docker_args "-e NAME=value"`) is read as one, *depth* of them in one
    another.
    """
    masked: list[str] = []
    follows_secret, name = False, ""
    for word in arguments:
        if follows_secret and not word.startswith("--") and _is_secret(name, word):
            # In the quotes of the word, if it has any: a line that was masked stays as it is
            quote = word[0] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else ""
            masked.append(f"{quote}{MASK}{quote}")
        else:
            masked.append(_masked_word(word, depth))
        follows_secret, name = word.startswith("-") and "=" not in word, word
    return masked


def mask_line(line: str, depth: int = DEEPEST) -> str:
    """A command line in one text, as `mask_arguments` masks it; its spaces and quotes stay."""
    words = mask_arguments(_WORD.findall(line), depth)
    return "".join(space + word for space, word in zip(_WORD.split(line), [*words, ""], strict=True))


def mask_document(value: Any, name: str = "") -> Any:
    """*value*, of mappings, lists and texts, with credentials masked: in any text in it, and where a name says that it
    is one; its own is *name*."""
    if isinstance(value, str):
        option = f"--{name}="
        return mask_arguments([option + value])[0].removeprefix(option) if name else redact(value)
    if isinstance(value, Mapping):
        return {key: mask_document(item, str(key)) for key, item in value.items()}
    return [mask_document(item) for item in value] if isinstance(value, list) else value


def _is_secret(name: str, value: str) -> bool:
    """Whether *value* is to be hidden because of the *name* it is given by."""
    if _WEBHOOK.search(name) and is_address(value.strip("\"'")):
        return True
    return _SECRET_NAME.search(name) is not None and not (_COUNTED.match(name) and _NUMBER.fullmatch(value))


def _masked_word(word: str, depth: int) -> str:
    """*word* masked; *depth* says how many more layers of quotes, assignments and lines within it are looked into."""
    found = _ASSIGNMENT.fullmatch(word)
    if found is not None and _is_secret(found["name"], found["value"]):
        return f"{found['before']}{MASK}{found['quote']}"
    quote = word[:1]
    if depth > 0 and quote in ("'", '"') and word.endswith(quote) and len(word) > 1:
        return f"{quote}{_masked_word(word[1:-1], depth - 1)}{quote}"
    if depth > 0 and len(word.split()) > 1:
        return redact(mask_line(word, depth - 1))
    return redact(
        found["before"] + _masked_word(found["value"], depth - 1) if found is not None and depth > 0 else word
    )


LONGEST_NAME = 150  # characters; a file system's 255 bytes leave room for what is put around it
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
# What stays as it is in the path of a link that somebody gave, beside letters and digits; all else no URL can hold
SAFE_IN_PATHS = "/%:@!$&'()*+,;=~"

_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³])(\.|$)", re.IGNORECASE)
_BOTCHED = re.compile(r"[^/]{2,}://|https?(?![\w.-])(?!:[^/\\?]*$)", re.IGNORECASE)
# Names in a query that belong to a signature, by the one that holds it: Azure's, Amazon's, Google's and their CDNs'.
_SIGNED_BY = {
    "sig": re.compile(r"s[vsprte]|srt|spr|sig|sip|skoid|sktid|skt|ske|sks|skv|skdutid|sdd|saoid|suoid|sduoid|scid|ses"),
    "signature": re.compile(r"signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"),
}
_SIGNING = re.compile(r"x-(?:amz|goog)-.*|token|access_token")


def is_address(text: str) -> bool:
    """Whether *text* is an http or https address, and no path or run."""
    return re.match(r"https?://", text.strip(), re.IGNORECASE) is not None


def may_be_signed(text: str) -> bool:
    """Whether *text* is an address with a query, which may hold a signature."""
    return is_address(text) and "?" in text


def is_botched_address(text: str) -> bool:
    """Whether *text* must be meant as an address, and is none that is read: `https:/host`, `s3://bucket`. It may hold a
    secret all the same."""
    return not is_address(text) and _BOTCHED.match(text.strip()) is not None


def parts_of(address: str) -> SplitResult:
    """The address taken apart; empty parts for text that is none."""
    try:
        parts = urlsplit(address.strip())
        parts.port  # noqa: B018  (raises for what is no number)
    except ValueError:
        return urlsplit("")
    return parts


def shown(address: str) -> str:
    """*address* as people and files may see it: without user, password, query and fragment."""
    parts = parts_of(address)
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), parts.path, "", ""))


def identity(address: str) -> str:
    """What tells the file at *address* from others, however the address is signed; holds no secret.

    Of the query, all but the known parts of signatures counts, as a digest: `?id=3` and `?id=4` are two files. A
    signature that is not known here costs one more download; a name that is taken for one would put a file in another's
    place.
    """
    from hashlib import sha256  # only here: all commands import this module

    asked = parse_qsl(parts_of(address).query, keep_blank_values=True)
    names = {name.lower() for name, _ in asked}
    signing = [_SIGNING, *(theirs for held_by, theirs in _SIGNED_BY.items() if held_by in names)]
    told = sorted(
        (name, value) for name, value in asked if not any(theirs.fullmatch(name.lower()) for theirs in signing)
    )
    digest = sha256(repr(told).encode()).hexdigest()[:16]
    return f"{shown(address)}?{digest}" if told else shown(address)


def last_name(address: str) -> str:
    """The last part of the path, percent signs undone; empty for none."""
    return unquote(parts_of(address).path.rstrip("/").rpartition("/")[2])


def safe_name(name: str) -> str:
    """*name* as a file can be called on every system; `checkpoint` where nothing is left of it."""
    plain = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]', "_", name).strip().rstrip(". ").lstrip(".")
    stem, dot, ending = plain.rpartition(".")
    if len(plain) > LONGEST_NAME:
        plain = (
            f"{stem[: LONGEST_NAME - len(ending) - 1]}.{ending}" if dot and len(ending) < 20 else plain[:LONGEST_NAME]
        )
    plain = plain.encode("utf-8", "replace").decode()
    return f"_{plain}" if _DEVICES.match(plain) else plain or "checkpoint"

"""Masking of secrets in logs, errors and settings, and of addresses that may contain some."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

MASK = "***"
DEEPEST = 5  # nested command lines

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
# Names with a wholly secret address
_WEBHOOK = re.compile(r"webhook|(^|[-_])notify$", re.IGNORECASE)
# Names with a number that is not secret: `--token_count 5`, `--max_token 9`, `--pad_token_id 0`
_COUNTED = re.compile(
    r"^[-\w.]*?(?:(?:^|[-_.])(?:num|n|max|min)[-_]token"
    r"|token[-_](?:count|size|len|length|num|dim|limit|rate|dropout|id|idx|index|weight))$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[\"']?[-+]?\d{1,9}(?:\.\d{1,9})?[\"']?")
_TOKEN = re.compile(r"\b(?:gh[pousr]_|github_pat_|hf_)\w{20,}")
# The look-ahead runs once per word, since one for each `-eyJ` in it would take quadratic time
_JWT = re.compile(r"(?<![\w-])(?=[\w-]+\.[\w-]{4,}\.)(?P<before>[\w-]*?)\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*")
_ASSIGNMENT = re.compile(
    r"(?P<before>(?:-e|--env(?:[-_]var)?=)?(?P<quote>[\"']?)(?P<name>[\w.-]+)=)(?P<value>.*)", re.DOTALL
)
_WORD = re.compile(r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s])+?(?=\s|$)")


def redact(text: str) -> str:
    """*text* with `***` for the values of signatures, keys, passwords and tokens."""
    text = _PASSWORD_IN_URL.sub(rf"\1{MASK}", _USER_IN_URL.sub(rf"\1{MASK}@", text))
    text = _JWT.sub(rf"\g<before>{MASK}", _SECRETS.sub(lambda found: found["keep"] + MASK, text))
    return _TOKEN.sub(MASK, text)


def mask_arguments(arguments: Sequence[str], depth: int = DEEPEST) -> list[str]:
    """The arguments of a command line with secrets masked: by shape, and by name in `--name value`, `--name=value`,
    `NAME=value` and `-e NAME=value`.

    An argument that is itself a command line (`--docker_args "-e NAME=value"`) is masked as one, up to *depth* levels.
    """
    masked: list[str] = []
    follows_secret, name = False, ""
    for word in arguments:
        if follows_secret and not word.startswith("--") and _is_secret(name, word):
            # Keep the quotes of the word, so that masking a line again does not change it
            quote = word[0] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else ""
            masked.append(f"{quote}{MASK}{quote}")
        else:
            masked.append(_masked_word(word, depth))
        follows_secret, name = word.startswith("-") and "=" not in word, word
    return masked


def mask_line(line: str, depth: int = DEEPEST) -> str:
    """A command line as one text, masked as by `mask_arguments`. Spaces and quotes stay."""
    words = mask_arguments(_WORD.findall(line), depth)
    return "".join(space + word for space, word in zip(_WORD.split(line), [*words, ""], strict=True))


def mask_document(value: Any, name: str = "") -> Any:
    """*value*, made of mappings, lists and texts, with credentials masked in any text and by name. *name* is the name
    of the value."""
    if isinstance(value, str):
        option = f"--{name}="
        return mask_arguments([option + value])[0].removeprefix(option) if name else redact(value)
    if isinstance(value, Mapping):
        return {key: mask_document(item, str(key)) for key, item in value.items()}
    return [mask_document(item) for item in value] if isinstance(value, list) else value


def _is_secret(name: str, value: str) -> bool:
    """Whether the *name* requires that *value* is hidden."""
    if _WEBHOOK.search(name) and is_address(value.strip("\"'")):
        return True
    return _SECRET_NAME.search(name) is not None and not (_COUNTED.match(name) and _NUMBER.fullmatch(value))


def _masked_word(word: str, depth: int) -> str:
    """*word* masked, with up to *depth* levels of quotes, assignments and command lines in it."""
    found = _ASSIGNMENT.fullmatch(word)
    if found is not None and _is_secret(found["name"], found["value"]):
        return f"{found['before']}{MASK}{found['quote']}"
    if depth > 0 and len(_WORD.findall(word)) > 1:
        return redact(mask_line(word, depth - 1))
    quote = word[:1]
    if depth > 0 and quote in ("'", '"') and word.endswith(quote) and len(word) > 1:
        return f"{quote}{_masked_word(word[1:-1], depth - 1)}{quote}"
    return redact(
        found["before"] + _masked_word(found["value"], depth - 1) if found is not None and depth > 0 else word
    )


# In characters. Leaves space for additions within a file system's 255 bytes
LONGEST_NAME = 150
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
# Unchanged characters in the path of a link, besides letters and digits. No URL can contain the others
SAFE_IN_PATHS = "/%:@!$&'()*+,;=~"

_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³])(\.|$)", re.IGNORECASE)
_BOTCHED = re.compile(r"[^/]{2,}://|https?(?![\w.-])(?!:[^/\\?]*$)", re.IGNORECASE)
# Names of a signature's parts in a query, by the part with the signature itself: Azure's, Amazon's, Google's and CDNs'
_SIGNED_BY = {
    "sig": re.compile(r"s[vsprte]|srt|spr|sig|sip|skoid|sktid|skt|ske|sks|skv|skdutid|sdd|saoid|suoid|sduoid|scid|ses"),
    "signature": re.compile(r"signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"),
}
_SIGNING = re.compile(r"x-(?:amz|goog)-.*|token|access_token")


def is_address(text: str) -> bool:
    """Whether *text* is an http or https address, rather than a path or a run."""
    return re.match(r"https?://", text.strip(), re.IGNORECASE) is not None


def may_be_signed(text: str) -> bool:
    """Whether *text* is an address with a query, which may contain a signature."""
    return is_address(text) and "?" in text


def is_botched_address(text: str) -> bool:
    """Whether *text* is an invalid or unsupported address, such as `https:/host` or `s3://bucket`. It may still contain
    a secret."""
    return not is_address(text) and _BOTCHED.match(text.strip()) is not None


def parts_of(address: str) -> SplitResult:
    """The parts of the address, empty for an invalid one."""
    try:
        parts = urlsplit(address.strip())
        parts.port  # noqa: B018  (raises for an invalid port)
    except ValueError:
        return urlsplit("")
    return parts


def shown(address: str) -> str:
    """*address* for messages and files, without user, password, query and fragment."""
    parts = parts_of(address)
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), parts.path, "", ""))


def identity(address: str) -> str:
    """A text that identifies the file at *address*, independent of its signature. Contains no secret.

    It includes a digest of the query without the known parts of signatures: `?id=3` and `?id=4` are two files. An
    unknown signature costs one more download, while a mistaken one would confuse two files.
    """
    from hashlib import sha256  # imported late, since all commands import this module

    asked = parse_qsl(parts_of(address).query, keep_blank_values=True)
    names = {name.lower() for name, _ in asked}
    signing = [_SIGNING, *(theirs for held_by, theirs in _SIGNED_BY.items() if held_by in names)]
    told = sorted(
        (name, value) for name, value in asked if not any(theirs.fullmatch(name.lower()) for theirs in signing)
    )
    digest = sha256(repr(told).encode()).hexdigest()[:16]
    return f"{shown(address)}?{digest}" if told else shown(address)


def last_name(address: str) -> str:
    """The last part of the path, decoded. Empty if there is none."""
    return unquote(parts_of(address).path.rstrip("/").rpartition("/")[2])


def safe_name(name: str) -> str:
    """*name* as a valid file name on every system, or `checkpoint` if nothing of it is valid."""
    plain = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]', "_", name).strip().rstrip(". ").lstrip(".")
    stem, dot, ending = plain.rpartition(".")
    if len(plain) > LONGEST_NAME:
        plain = (
            f"{stem[: LONGEST_NAME - len(ending) - 1]}.{ending}" if dot and len(ending) < 20 else plain[:LONGEST_NAME]
        )
    plain = plain.encode("utf-8", "replace").decode()
    return f"_{plain}" if _DEVICES.match(plain) else plain or "checkpoint"

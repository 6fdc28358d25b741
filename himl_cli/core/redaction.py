"""Secrets that must not be seen in logs, errors and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"
DEEPEST = 5  # layers of a command line within a command line

_NAMED = r"(?:password|passwd|secret|apikey|(?<!public)[_-]key|(?<![a-z])token)"
_SECRETS = re.compile(
    rf"""(?P<keep>
        [?&](?:sig|sv_sig|token|access_token|code|client_secret|(?:x-[a-z]+-)?(?:signature|credential))=  # a link
      | (?:AccountKey|SharedAccessSignature|SharedAccessKey)=                      # a connection string
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


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line's arguments with secrets masked: by shape, and by name in `--name value`, `--name=value`,
    `NAME=value` and `-e NAME=value`.

    An argument that is itself a command line (`--docker_args "-e NAME=value"`) is read as one.
    """
    return _masked_words(arguments, DEEPEST)


def mask_line(line: str) -> str:
    """A command line in one text, as `mask_arguments` masks it; its spaces and quotes stay."""
    return _masked_line(line, DEEPEST)


def mask_document(value: Any, name: str = "") -> Any:
    """*value*, of mappings, lists and texts, with credentials masked: in any text in it, and where a name says that it
    is one; its own is *name*."""
    if isinstance(value, str):
        option = f"--{name}="
        return mask_arguments([option + value])[0].removeprefix(option) if name else redact(value)
    if isinstance(value, Mapping):
        return {key: mask_document(item, str(key)) for key, item in value.items()}
    return [mask_document(item) for item in value] if isinstance(value, list) else value


def _masked_words(words: Sequence[str], depth: int) -> list[str]:
    shown: list[str] = []
    follows_secret, name = False, ""
    for word in words:
        is_value = follows_secret and not word.startswith("--") and _is_secret(name, word)
        shown.append(_mask_of(word) if is_value else _masked_word(word, depth))
        follows_secret, name = word.startswith("-") and "=" not in word and _SECRET_NAME.search(word) is not None, word
    return shown


def _is_secret(name: str, value: str) -> bool:
    """Whether *value* is to be hidden because of the *name* it is given by."""
    return _SECRET_NAME.search(name) is not None and not (_COUNTED.match(name) and _NUMBER.fullmatch(value))


def _mask_of(word: str) -> str:
    """The mask in the quotes of *word*, if it has any: a line that was masked stays as it is."""
    quote = word[:1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else ""
    return f"{quote}{MASK}{quote}"


def _masked_line(line: str, depth: int) -> str:
    words = _masked_words(_WORD.findall(line), depth)
    return "".join(space + word for space, word in zip(_WORD.split(line), [*words, ""], strict=True))


def _masked_word(word: str, depth: int) -> str:
    """*word* masked; *depth* says how many more layers of quotes, assignments and lines within it are looked into."""
    found = _ASSIGNMENT.fullmatch(word)
    if found is not None and _is_secret(found["name"], found["value"]):
        return f"{found['before']}{MASK}{found['quote']}"
    quote = word[:1]
    if depth > 0 and quote in ("'", '"') and word.endswith(quote) and len(word) > 1:
        return f"{quote}{_masked_word(word[1:-1], depth - 1)}{quote}"
    if depth > 0 and len(word.split()) > 1:
        return redact(_masked_line(word, depth - 1))
    return redact(
        found["before"] + _masked_word(found["value"], depth - 1) if found is not None and depth > 0 else word
    )

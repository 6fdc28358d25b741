"""Lines that pip installs by: what each one names, and which cannot be used where an image is built."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact

INCLUDES = ("-r", "--requirement", "-c", "--constraint")
EDITABLE = ("-e", "--editable")
INDEX_OPTIONS = ("-i", "--index-url")
ONLY_ELSEWHERE = "The environment's image is built elsewhere and sees only what an index or a repository offers."

_OPTION = re.compile(r"(-[a-z]|--[a-z-]+)(?:\s*=\s*|\s+|(?<=^-[a-z])(?=\S)|$)(.*)", re.IGNORECASE)
_NAMED = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?P<extras>\[[^\]]*\])?\s*(?P<spec>[^;]*?)\s*"
    r"(?:;\s*(?P<marker>.*))?"
)
_PATH = re.compile(r"[.~/\\]|[A-Za-z]:[\\/]|file:", re.IGNORECASE)
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


class Kind(Enum):
    option = "option"
    package = "package"


@dataclass(frozen=True)
class PipLine:
    """One line: an option of pip, or a package.

    `key` says what it is about: a package with its marker, or an option that may be given once; empty where nothing can
    contradict it. `spec` is what it says of that. `is_bare`: it says nothing but the package's name.
    """

    kind: Kind
    text: str
    key: str = ""
    spec: str = ""
    is_bare: bool = False


def parse_pip_line(line: str, where: str) -> PipLine:
    """One line of pip, without comment. Raises BadUsage beginning with *where* for what cannot work where the image is
    built."""
    text = " ".join(line.split())
    unset = _VARIABLE.search(text)
    if unset:
        raise BadUsage(
            f"{where}: ${{{unset[1]}}} is not set where the environment's image is built.",
            hint="Write the value out, or give an index with --pip_extra_index_url.",
        )
    if text.startswith("-"):
        return _option(text, where)
    if _is_path(text):
        hint = (
            "Give the wheel with --private_wheel."
            if text.split(";")[0].strip().lower().endswith(".whl")
            else f"{ONLY_ELSEWHERE} Give a wheel with --private_wheel."
        )
        raise BadUsage(f"{where}: '{redact(text)}' is a path on this machine.", hint=hint)
    found = _NAMED.fullmatch(text)
    if found is None or "://" in text.split("@")[0]:
        return PipLine(Kind.package, text)
    spec = re.sub(r"\s+", "", found["spec"])
    marker = re.sub(r"\s+", " ", found["marker"] or "").replace('"', "'")
    key = re.sub(r"[-_.]+", "-", found["name"]).lower() + (f"; {marker}" if marker else "")
    return PipLine(Kind.package, text, key, spec, is_bare=not spec and not found["extras"])


def _option(text: str, where: str) -> PipLine:
    found = _OPTION.fullmatch(text)
    name, value = (found[1], found[2].strip()) if found else (text, "")
    if name in INCLUDES:
        raise BadUsage(
            f"{where}: '{redact(text)}' reads another file, which is not there when the image is built.",
            hint="List the packages themselves.",
        )
    if name in EDITABLE and "+" not in value.split("://")[0]:
        raise BadUsage(
            f"{where}: '{redact(text)}' is a path on this machine.",
            hint="The job's own code comes with its snapshot and needs no installing; give other packages as a wheel "
            "with --private_wheel.",
        )
    if name in ("-f", "--find-links") and "://" not in value:
        raise BadUsage(
            f"{where}: '{redact(text)}' is a path on this machine.", hint="Give a wheel with --private_wheel."
        )
    if name in INDEX_OPTIONS:
        return PipLine(Kind.option, f"--index-url {value}", "--index-url", value)
    return PipLine(Kind.option, f"--extra-index-url {value}" if name == "--extra-index-url" else text)


def _is_path(text: str) -> bool:
    target = text.split(" @ ")[-1] if " @ " in text else text
    if _PATH.match(target):
        return True
    bare = re.split(r"[;\[]", target)[0].strip()
    return "://" not in target and ("/" in bare or "\\" in bare or bare.lower().endswith(_ARCHIVES))

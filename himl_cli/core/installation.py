"""How the running himl was installed, for errors that say how to add to it or to renew it; and which
certificate authorities it trusts.

An index is asked for a package of himl's name only where this himl came from one: elsewhere anybody may have taken the
name.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import parts_of, shown
from himl_cli.core.text import NotJson, read_json

PACKAGE = "himl-cli"

_WORD = re.compile(r"[\w.-]+")


class Source(NamedTuple):
    """What himl was installed from: a folder, `-e` where that is its code still, or an address; neither for an
    index."""

    folder: str = ""
    is_editable: bool = False
    address: str = ""

    @property
    def is_of_this_machine(self) -> bool:
        return bool(self.folder) or self.address.startswith(("file:", "git+file:"))


def install_command(extra: str = "", options: str = "") -> str:
    """What installs himl from where it came from once more, with *extra*; *options* are pip's. Names no user, password
    or query of an address."""
    source = find_source()
    words = ("pip install", options, "-e" if source.is_editable else "", _quoted(_requirement(source, extra)))
    return " ".join(filter(None, words))


def update_hint() -> str:
    """How to get a newer himl; of a folder or an address nobody knows where the newer one is."""
    source = find_source()
    if origin := source.folder or source.address:
        return f"Update himl, which was installed from '{origin}'."
    return f"Update himl: {install_command(options='-U')}"


def environment_hint(extra: str = "") -> str:
    """What to do about an environment on other machines that lacks himl: what lies on this one's disk goes there as a
    wheel alone."""
    source = find_source()
    if source.is_of_this_machine:
        return "build a wheel of himl, and name it with --private_wheel"
    return f"add '{_requirement(source, extra)}' to its pip packages"


def requirement_elsewhere(extra: str, version: str) -> str:
    """What pip installs himl by on another machine: from where it came from, or *version* of the index. Raises BadUsage
    where only a wheel will do."""
    source = find_source()
    if source.is_of_this_machine:
        where = source.folder or source.address
        hint = (
            f"Build a wheel: pip wheel --no-deps {_quoted(where)}; then --private_wheel FILE. Or name an "
            "environment that has himl: --conda_env FILE."
        )
        raise BadUsage(f"himl was installed from '{where}', from where no other machine can install it.", hint=hint)
    return _requirement(source, extra) + ("" if source.address else f"=={version}")


def find_source() -> Source:
    """Where himl was installed from, as the installer wrote it down; an index where that says nothing that can be
    read."""
    record = _read_record()
    url, vcs = record.get("url"), record.get("vcs_info")
    if not isinstance(url, str):
        return Source()
    parts = parts_of(url)
    scheme, folder = parts.scheme.lower(), record.get("dir_info")
    if isinstance(folder, Mapping) and scheme == "file":
        from urllib.request import url2pathname  # only here: it imports a client of HTTP

        return Source(url2pathname(parts.path), folder.get("editable") is True)
    if isinstance(vcs, Mapping):
        system, commit, below = vcs.get("vcs"), vcs.get("commit_id"), record.get("subdirectory")
        if not (shown(url) and all(isinstance(word, str) and _WORD.fullmatch(word) for word in (system, commit))):
            return Source()
        # Ssh needs the name, and the name is no secret there
        user = f"//{parts.username}@" if scheme == "ssh" and parts.username else "//"
        place = f"#subdirectory={below}" if isinstance(below, str) else ""
        return Source(address=f"{system}+{shown(url).replace('//', user, 1)}@{commit}{place}")
    is_file = isinstance(record.get("archive_info"), Mapping) and scheme in ("http", "https", "file")
    return Source(address=shown(url) if is_file else "")


def _requirement(source: Source, extra: str) -> str:
    """The folder, or the package by its name, and where that is an address."""
    name = source.folder or PACKAGE
    return (f"{name}[{extra}]" if extra else name) + (f" @ {source.address}" if source.address else "")


def _read_record() -> Mapping[str, Any]:
    """What the installer wrote down; nothing where it wrote nothing, or what cannot be read."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        # Where installers write what was not taken from an index (PEP 610)
        record = read_json(distribution(PACKAGE).read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # not installed: it runs from its sources
        sources = Path(__file__).parents[2]
        return {"url": sources.as_uri(), "dir_info": {}} if (sources / "pyproject.toml").is_file() else {}
    except (NotJson, OSError, ValueError):
        return {}
    return record if isinstance(record, Mapping) else {}


def _quoted(text: str) -> str:
    """*text* as one word of a command line: Windows' own shell knows double quotes alone."""
    if sys.platform == "win32":
        return text if _WORD.fullmatch(text) else f'"{text}"'
    from shlex import quote

    return quote(text)


# requests reads the first two, OpenSSL the others, libcurl's library none of them: the file is chosen here, once, and
# handed to each client
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def ca_source() -> str:
    """Where `ca_bundle` takes it from: the first of the variables that is set, else `certifi`."""
    return next((name for name in CA_VARIABLES if os.environ.get(name, "").strip()), "certifi")


def ca_bundle() -> str:
    """The file (or folder) of certificate authorities. Raises BadUsage where a variable names nothing that exists."""
    name = ca_source()
    if name == "certifi":
        import certifi

        return certifi.where()
    path = os.environ[name].strip()
    if not Path(path).exists():
        raise BadUsage(
            f"{name} names '{path}', which does not exist.",
            hint="Correct the variable, or unset it to trust the usual authorities.",
        )
    return path

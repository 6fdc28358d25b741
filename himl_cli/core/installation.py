"""The source of the running himl, for errors that say how to extend or update it, and its certificate authorities.

A package index is used only if this himl came from one, since others may own its name elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from himl_cli.core.errors import BadUsage
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.redaction import parts_of, shown

PACKAGE = "himl-cli"

_WORD = lazy_pattern(r"[\w.-]+")


class InstallationSource(NamedTuple):
    """The source of the installation: a folder, editable or not, or an address. Both are empty for an index."""

    folder: str = ""
    is_editable: bool = False
    address: str = ""

    @property
    def is_of_this_machine(self) -> bool:
        return bool(self.folder) or self.address.startswith(("file:", "git+file:"))


def entry_points_of(group: str) -> Mapping[str, Any]:
    """The entry points of *group* in all installed packages, by name in lower case. Imports none of the packages."""
    return _entry_points(group, tuple(sys.path))


@lru_cache(maxsize=4)
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, Any]:
    # importlib.metadata takes several times as long as a search for the group, which few installations have.
    contents: list[bytes] = []
    for folder in path:
        with suppress(OSError):  # not a folder, such as an archive of modules
            for name in os.listdir(folder or "."):
                if name.endswith((".dist-info", ".egg-info")):
                    with suppress(OSError), open(os.path.join(folder, name, "entry_points.txt"), "rb") as stream:
                        contents.append(stream.read())
    if not any(f"[{group}]".encode() in content for content in contents):
        return {}
    from importlib.metadata import entry_points

    return {point.name.lower(): point for point in entry_points(group=group)}


def install_command(extra: str = "", options: str = "") -> str:
    """The command that installs himl again from its source, with *extra*. *options* are pip's. Contains no user,
    password or query of an address."""
    source = find_source()
    words = ("pip install", options, "-e" if source.is_editable else "", _quoted(_requirement(source, extra)))
    return " ".join(filter(None, words))


def update_hint() -> str:
    """How to update himl. The newer version of a folder or an address is not known."""
    source = find_source()
    if origin := source.folder or source.address:
        return f"Update himl, which was installed from '{origin}'."
    return f"Update himl: {install_command(options='-U')}"


def environment_hint(extra: str = "") -> str:
    """How to add himl to an environment on other machines. A local source requires a wheel."""
    source = find_source()
    if source.is_of_this_machine:
        return "build a wheel of himl, and name it with --private_wheel"
    return f"add '{_requirement(source, extra)}' to its pip packages"


def requirement_elsewhere(extra: str, version: str) -> str:
    """The requirement with which pip installs himl on another machine: its source, or *version* of the index. Raises
    BadUsage if only a wheel works."""
    source = find_source()
    if source.is_of_this_machine:
        where = source.folder or source.address
        hint = (
            f"Build a wheel (pip wheel --no-deps {_quoted(where)}) and add --private_wheel FILE, or name an "
            "environment with himl: --conda_env FILE."
        )
        raise BadUsage(f"himl was installed from '{where}', which no other machine can access.", hint=hint)
    return _requirement(source, extra) + ("" if source.address else f"=={version}")


def packed_wheel(folder: Path) -> Path:
    """A wheel in *folder* of the himl that runs here, for a machine that pip's source of it may not reach. The same
    files give the same bytes. Raises BadUsage if himl is not installed."""
    import base64
    import hashlib
    from importlib.metadata import PackageNotFoundError, distribution
    from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

    try:
        own = distribution(PACKAGE)
    except PackageNotFoundError as err:
        raise BadUsage("himl is not installed here, and runs from its sources.", hint=install_command()) from err
    name, root = f"{PACKAGE.replace('-', '_')}-{own.version}", Path(__file__).parents[1]
    found = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    content = {path.relative_to(root.parent).as_posix(): path.read_bytes() for path in found}
    content[f"{name}.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: himl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    for file in ("METADATA", "entry_points.txt"):
        content[f"{name}.dist-info/{file}"] = (own.read_text(file) or "").encode()
    record = f"{name}.dist-info/RECORD"
    sums = {each: base64.urlsafe_b64encode(hashlib.sha256(data).digest()) for each, data in content.items()}
    lines = [f"{each},sha256={sums[each].rstrip(b'=').decode()},{len(data)}" for each, data in content.items()]
    content[record] = "".join(f"{line}\n" for line in [*lines, f"{record},,"]).encode()
    wheel = folder / f"{name}-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for each, data in content.items():
            entry = ZipInfo(each)  # with the oldest date
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, ZIP_DEFLATED, 6)
    return wheel


def find_source() -> InstallationSource:
    """The source of himl in the installer's record, or an index if the record is missing or invalid."""
    record = _read_record()
    url, vcs = record.get("url"), record.get("vcs_info")
    if not isinstance(url, str):
        return InstallationSource()
    parts = parts_of(url)
    scheme, folder = parts.scheme.lower(), record.get("dir_info")
    if isinstance(folder, Mapping) and scheme == "file":
        from urllib.request import url2pathname  # imported late, since it imports an HTTP client

        return InstallationSource(url2pathname(parts.path), folder.get("editable") is True)
    if isinstance(vcs, Mapping):
        system, commit, below = vcs.get("vcs"), vcs.get("commit_id"), record.get("subdirectory")
        if not (shown(url) and all(isinstance(word, str) and _WORD.fullmatch(word) for word in (system, commit))):
            return InstallationSource()
        # Ssh needs the user name, which is not a secret
        user = f"//{parts.username}@" if scheme == "ssh" and parts.username else "//"
        place = f"#subdirectory={below}" if isinstance(below, str) else ""
        return InstallationSource(address=f"{system}+{shown(url).replace('//', user, 1)}@{commit}{place}")
    is_file = isinstance(record.get("archive_info"), Mapping) and scheme in ("http", "https", "file")
    return InstallationSource(address=shown(url) if is_file else "")


def _requirement(source: InstallationSource, extra: str) -> str:
    """The folder, or the package name with its address, if any."""
    name = source.folder or PACKAGE
    return (f"{name}[{extra}]" if extra else name) + (f" @ {source.address}" if source.address else "")


def _read_record() -> Mapping[str, Any]:
    """The installer's record, or an empty one if it is missing or invalid."""
    from importlib.metadata import PackageNotFoundError, distribution

    from himl_cli.core.json_text import NotJson, read_json

    try:
        # The installer's record of a source other than an index (PEP 610)
        record = read_json(distribution(PACKAGE).read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # not installed, so that it runs from its sources
        sources = Path(__file__).parents[2]
        return {"url": sources.as_uri(), "dir_info": {}} if (sources / "pyproject.toml").is_file() else {}
    except (NotJson, OSError, ValueError):
        return {}
    return record if isinstance(record, Mapping) else {}


def _quoted(text: str) -> str:
    """*text* as one word of a command line. Windows' shell supports only double quotes."""
    if sys.platform == "win32":
        return text if _WORD.fullmatch(text) else f'"{text}"'
    from shlex import quote

    return quote(text)


# requests reads the first two, OpenSSL the others, and libcurl none of them, so that himl chooses the file once for all
# clients
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def ca_source() -> str:
    """The source of `ca_bundle`: the first environment variable that is set, else `certifi`."""
    return next((name for name in CA_VARIABLES if os.environ.get(name, "").strip()), "certifi")


def ca_bundle() -> str:
    """The file (or folder) of certificate authorities. Raises BadUsage if the variable names none that exists."""
    name = ca_source()
    if name == "certifi":
        import certifi

        return certifi.where()
    path = os.environ[name].strip()
    if not Path(path).exists():
        raise BadUsage(
            f"{name} names '{path}', which does not exist.",
            hint="Correct the environment variable, or unset it to trust the usual authorities.",
        )
    return path

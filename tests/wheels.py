"""A wheel of himl, for jobs that install it from a file, and what an installer writes down of where himl came from."""

from __future__ import annotations

import zipfile
from pathlib import Path

from himl_cli import __version__

WHEEL = f"himl_cli-{__version__}-py3-none-any.whl"


def write_wheel(folder: Path, name: str = WHEEL) -> None:
    """One that holds next to nothing, in *folder*."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("himl_cli/__init__.py", "")


def write_record(folder: Path, record: str | bytes | None) -> Path:
    """Metadata of himl-cli in *folder*, which Python finds before any other when it looks there first; *record* is its direct_url.json, None for an index."""
    place = folder / "himl_cli-99.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: himl-cli\nVersion: 99\n")
    if record is not None:
        (place / "direct_url.json").write_bytes(record if isinstance(record, bytes) else record.encode())
    return folder

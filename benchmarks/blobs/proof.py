"""Whether all of a sample arrived: a fast client that loses files is not fast."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from benchmarks.blobs.azurite import stored_md5s
from benchmarks.blobs.sample import Sample
from himl_cli.services.transfer.local_files import md5_of


def check_download(sample: Sample, part: str, folder: Path, *, is_read: bool) -> None:
    """Names and sizes below *folder*, with *is_read* the content too. Raises SystemExit."""
    wanted = {name: (sample.folder / name).stat().st_size for name in sample.names(part)}
    found = {f"{part}/{path.name}": path.stat().st_size for path in (folder / part).iterdir() if not path.name.startswith(".himl-")}
    if found != wanted:
        sys.exit(f"{len(wanted)} files were to be downloaded, {len(found)} are there, or sizes differ")
    for name in wanted if is_read else ():
        if base64.b64encode(md5_of(folder / name)).decode() != sample.md5s[name]:
            sys.exit(f"'{name}' was downloaded with another content")


def check_upload(sample: Sample, part: str, port: int) -> int:
    """Names and sizes in Azurite, and the MD5s that were stored; gives how many were. Raises SystemExit."""
    stored = stored_md5s(port, part)
    wanted = {name: (sample.folder / name).stat().st_size for name in sample.names(part)}
    if {name: size for name, (size, _) in stored.items()} != wanted:
        sys.exit(f"{len(wanted)} files were to be uploaded, {len(stored)} are there, or sizes differ")
    wrong = [name for name, (_, md5) in stored.items() if md5 is not None and base64.b64encode(md5).decode() != sample.md5s[name]]
    if wrong:
        sys.exit(f"'{wrong[0]}' was stored with another MD5")
    return sum(md5 is not None for _, md5 in stored.values())

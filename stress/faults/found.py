"""What a command left: on this disk, in a storage account, on stdout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from stress.faults.judge import differences
from tests.servers.azureml.storage import Storage


def final_files(folder: Path) -> dict[str, bytes]:
    """Contents of the files below *folder* by their names, without what is not done."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not is_unfinished(path.name)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def left_parts(folder: Path) -> list[str]:
    """Parts of files below *folder*, of which a call that is done leaves none."""
    return [f"{path.name!r} is left" for path in folder.rglob("*.himl-part")]


def is_unfinished(name: str) -> bool:
    """Whether a file is a part of another one (`.NAME.MARK.himl-part`)."""
    return name.startswith(".") and name.endswith(".himl-part")


def wrong_blobs(storage: Storage, container: str, prefix: str, wanted: Mapping[str, bytes], *, is_done: bool) -> list[str]:
    """What is wrong with the blobs below *prefix*: as `differences`, and with the MD5s that are stored with them."""
    blobs = list(storage.list(container, prefix))
    found = {blob.name.removeprefix(prefix): storage.get(container, blob.name) for blob in blobs}
    wrong = differences(wanted, found, is_done=is_done)
    for blob in blobs:
        name, md5 = blob.name.removeprefix(prefix), blob.content_settings.content_md5
        if bytes(md5 or b"") != hashlib.md5(found[name]).digest():
            wrong.append(f"{name!r} is stored with another MD5 than that of its bytes, or with none")
    return wrong

"""The command lines that are compared. Each downloads `PART/` of the container below a folder, or uploads it from there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from benchmarks.blobs.himl_workspace import HimlWorkspace
from benchmarks.blobs.sample import ACCOUNT, CONTAINER, KEY
from benchmarks.blobs.tools import Tools
from benchmarks.measure import HIML

TRANSFERS = 32


@dataclass(frozen=True)
class Task:
    """`part` (small or large) goes `direction` (down or up) between the service at `port` and `folder`, which holds `PART/`."""

    tools: Tools
    himl: HimlWorkspace
    direction: str
    part: str
    port: int
    folder: Path

    @property
    def account_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def sas(self) -> str:
        """A container's SAS, made as himl makes it; nginx takes any."""
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        rights = ContainerSasPermissions.from_string("racwdl")
        return generate_container_sas(ACCOUNT, CONTAINER, account_key=KEY, permission=rights, expiry=datetime.now(timezone.utc) + timedelta(hours=8))


def rclone(task: Task) -> list[str]:
    """Checks MD5 after each file, both ways; stores the MD5 of large ones too."""
    service = ["--config", "/dev/null", "--azureblob-account", ACCOUNT, "--azureblob-key", KEY, "--azureblob-endpoint", task.account_url]
    remote, local = f":azureblob:{CONTAINER}/{task.part}", str(task.folder / task.part)
    places = [remote, local] if task.direction == "down" else [local, remote]
    return [task.tools.rclone, *service, "copy", *places, "--transfers", str(TRANSFERS), "--checkers", str(TRANSFERS)]


def azcopy(task: Task) -> list[str]:
    """Down: fails on a wrong or missing MD5. Up: stores an MD5."""
    remote, local = f"{task.account_url}/{CONTAINER}", str(task.folder)
    quiet = ["--skip-version-check", "--output-level", "essential", "--log-level", "NONE"]
    if task.direction == "down":
        places, check = [f"{remote}/{task.part}?{task.sas}", local, "--from-to", "BlobLocal"], ["--check-md5", "FailIfDifferentOrMissing"]
    else:
        places, check = [f"{local}/{task.part}", f"{remote}?{task.sas}", "--from-to", "LocalBlob"], ["--put-md5"]
    return [task.tools.azcopy, "copy", *places, "--recursive", *check, *quiet]


def sdk(task: Task, how: str = "plain") -> list[str]:
    """Checks nothing on the way down; up, it stores the MD5s that the service computes, which are those of files sent in one request."""
    return [sys.executable, "-m", "benchmarks.blobs.sdk", task.direction, task.account_url, KEY, task.part, str(task.folder), how]


def sdk_checked(task: Task) -> list[str]:
    """Uploads with `validate_content`: an MD5 with each request, none of a whole large file.

    Downloads cannot be: the vendor's client then asks for the MD5 of ranges, which nginx does not compute.
    """
    return sdk(task, "checked")


def sdk_one_by_one(task: Task) -> list[str]:
    """One file after the other by one client."""
    return [sys.executable, "-m", "benchmarks.blobs.one_by_one", task.direction, task.account_url, task.sas, task.part, str(task.folder), "loop"]


def as_azureml_core(task: Task) -> list[str]:
    """The batches and clients of azureml-core."""
    return [*sdk_one_by_one(task)[:-1], "pool"]


def md5_floor(folder: Path) -> list[str]:
    """Only reads and digests what is in *folder*."""
    return [sys.executable, "-m", "benchmarks.blobs.floor", str(folder)]


def himl_engine(task: Task) -> list[str]:
    """Checks MD5 of everything, both ways; stores the MD5 of everything."""
    url = f"{task.account_url}/{CONTAINER}"
    return [sys.executable, "-m", "benchmarks.blobs.engine", task.direction, url, task.sas, task.part, str(task.folder)]


def himl_command(task: Task) -> list[str]:
    """The same with all that a user waits for; it remembers its token and the datastore's SAS from the call before."""
    datastore = ["--datastore", task.himl.datastore(task.port), "--quiet"]
    if task.direction == "down":
        return [HIML, "datastore", "download", f"{task.part}/", str(task.folder), *datastore]
    return [HIML, "datastore", "upload", str(task.folder / task.part), task.part, *datastore]


CLIENTS: Mapping[str, Callable[[Task], list[str]]] = {
    "himl engine": himl_engine,
    "himl command": himl_command,
    "rclone": rclone,
    "azcopy": azcopy,
    "azure-storage-blob": sdk,
    "azure-storage-blob checked": sdk_checked,
    "azure-storage-blob, one by one": sdk_one_by_one,
    "as azureml-core": as_azureml_core,
}
ONLY_UP = ("azure-storage-blob checked",)
ONLY_SMALL = ("azure-storage-blob, one by one", "as azureml-core")
NEVER_LATE = ("azure-storage-blob checked",)
"""What these do at once tells all there is to tell."""
ONCE = (*ONLY_UP, *ONLY_SMALL)
"""So slow, or so alike another one, that one round will do."""


def environment(base: Mapping[str, str], himl: HimlWorkspace, scratch: Path) -> dict[str, str]:
    """What all of them run in: himl's workspace and nothing else that would change what they do; azcopy's logs and plans in *scratch*.

    Modules are compiled once, as those of an installed program are.
    """
    clean = {name: value for name, value in base.items() if not name.startswith(("HIML_", "RCLONE_", "AZCOPY_")) and name != "PYTHONDONTWRITEBYTECODE"}
    return {**clean, **himl.environment(), "AZCOPY_LOG_LOCATION": str(scratch / "azcopy-log"), "AZCOPY_JOB_PLAN_LOCATION": str(scratch / "azcopy-plan")}

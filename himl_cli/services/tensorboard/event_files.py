"""Which files of a run TensorBoard reads, and what its runs are called there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import hyperparameters_of, values_text
from himl_cli.workspaces.base import BlobStore

MARK = "tfevents"
"""What TensorBoard looks for in the name of a file."""
LONGEST_DISPLAY_NAME = 60
UNPLAIN = re.compile(r"[^\w.+=-]+")


def is_event_file(name: str) -> bool:
    """Whether TensorBoard would read a file of this name (`/`-separated)."""
    return MARK in name.rpartition("/")[2]


def event_files(store: BlobStore, log_dir: str) -> Mapping[str, BlobInfo]:
    """The event files below *log_dir* by their names there; where there are none, all of the run's by their whole names."""
    folder = PurePosixPath(log_dir.replace("\\", "/")).as_posix().strip("/")
    below = "" if folder in ("", ".") else f"{folder}/"
    found = {blob.name[len(below) :]: blob for blob in _marked(store, below)}
    return found if found or not below else {blob.name: blob for blob in _marked(store, "")}


def _marked(store: BlobStore, prefix: str) -> list[BlobInfo]:
    return [blob for page in store.list(prefix) for blob in page if is_event_file(blob.name)]


def readable_name(run: Run) -> str:
    """What the run is called in TensorBoard, and its folder: display name (of a trial without one its values) and id, in signs that every file system takes."""
    name = run.display_name if run.display_name not in ("", run.id) else values_text(hyperparameters_of(run.tags))
    shown = UNPLAIN.sub("_", name).strip("._")[:LONGEST_DISPLAY_NAME]
    plain_id = UNPLAIN.sub("_", run.id).lstrip(".") or "run"
    return plain_id if not shown else f"{shown}-{plain_id}"

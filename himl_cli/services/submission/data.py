"""The data of a job: the values of `--input` and `--output`, and the datasets that are brought to this machine."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from himl_cli.core.blobs import TransferResult, named
from himl_cli.core.errors import BadUsage, NotFound, TransferIncomplete
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import expand_home, walk_files
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, FolderWorkspace

log = logging.getLogger(__name__)

FILES = "files"
"""The part of a cache folder that the dataset is in; what himl notes of its transfers lies beside it."""
KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PATH = re.compile(r"\.{1,2}(?:[/\\]|$)|[/\\~]|[A-Za-z]:[/\\]")
"""How a path begins that can be no name of a dataset."""
INPUT_OPTIONS = {"datastore": (), "mode": ("download", "mount"), "target": (), "local": ()}
OUTPUT_OPTIONS = {"datastore": (), "mode": ("mount", "upload"), "local": (), "overwrite": ("true", "false")}


def parse_inputs(values: Sequence[str | DataSpec]) -> list[DataSpec]:
    """All `--input` values, those that are specifications already as they are; keys default to INPUT_0, INPUT_1, …
    Raises BadUsage."""
    return _all("input", values, INPUT_OPTIONS)


def parse_outputs(values: Sequence[str | DataSpec]) -> list[DataSpec]:
    """All `--output` values, those that are specifications already as they are; keys default to OUTPUT_0, OUTPUT_1, …
    Raises BadUsage."""
    return _all("output", values, OUTPUT_OPTIONS)


def _all(kind: str, values: Sequence[str | DataSpec], known: dict[str, tuple[str, ...]]) -> list[DataSpec]:
    specs = [
        value if isinstance(value, DataSpec) else _parse(kind, value, f"{kind.upper()}_{number}", known)
        for number, value in enumerate(values)
    ]
    keys = [spec.key for spec in specs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise BadUsage(f"Two --{kind} options have the key '{twice}'.", hint=f"Give each its own: --{kind} KEY=NAME")
    return specs


def _parse(kind: str, text: str, default_key: str, known: dict[str, tuple[str, ...]]) -> DataSpec:
    head, *rest = text.split(",")
    key, equals, name = head.partition("=")
    if not equals:
        key, name = default_key, head
    if not KEY.fullmatch(key):
        raise BadUsage(
            f"--{kind} '{text}': '{key}' cannot be a key.",
            hint="A key becomes part of a variable's name: letters, digits and _, no digit first.",
        )
    options = _options(kind, text, rest, known)
    if PATH.match(name) and "local" not in options:
        raise _is_path(kind, text, name, f"{key}=" if equals else "")
    name, version = _split_version(name) if kind == "input" else (name, None)
    if kind == "output" and (wrong := _split_version(name)[1]) is not None and (wrong.isdigit() or wrong == "latest"):
        raise BadUsage(
            f"--output '{text}': an output has no version, Azure ML counts them.",
            hint=f"Write {name.rpartition(':')[0]} without ':{wrong}'.",
        )
    if not name and "local" not in options:
        raise BadUsage(f"--{kind} '{text}': no name.", hint=f"Write --{kind} [KEY=]NAME[,local=PATH]")
    overwrite = options.pop("overwrite", "true") == "true"
    return DataSpec(key, name, version, overwrite=overwrite, is_folder=False, **options)


def _is_path(kind: str, text: str, path: str, key: str) -> BadUsage:
    """A path stands where a dataset's name belongs."""
    name = re.split(r"[/\\]", path.rstrip("/\\."))[-1] or "data"
    place = os.path.expanduser(path)
    here, there = shlex.quote(f"{key}{name},local={place}"), shlex.quote(f"{key}{name}")
    upload = f"himl datastore upload {shlex.quote(place)} {shlex.quote(name)}, then " if kind == "input" else ""
    return BadUsage(
        f"--{kind} '{text}': '{path}' is a path, and no dataset's name.",
        hint=f"Here: --{kind} {here}. On a cluster: {upload}--{kind} {there}",
    )


def _options(kind: str, text: str, pairs: Sequence[str], known: dict[str, tuple[str, ...]]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if option not in known:
            near = get_close_matches(option, known, n=1)
            raise BadUsage(
                f"--{kind} '{text}': unknown '{option}'.",
                hint=f"Did you mean {near[0]}=…?" if near else f"There are: {', '.join(known)}.",
            )
        if not equals or not value:
            raise BadUsage(f"--{kind} '{text}': '{option}' has no value.", hint=f"Write {option}=VALUE")
        if known[option] and value not in known[option]:
            raise BadUsage(
                f"--{kind} '{text}': {option} cannot be '{value}'.", hint=f"It is one of: {', '.join(known[option])}."
            )
        options[option] = value
    if options.get("target", "").rstrip("/\\") in (".", "./") and "target" in options:
        raise BadUsage(
            f"--{kind} '{text}': target=. is refused: the data would cover the script's own folder.",
            hint="Name another folder.",
        )
    return options


def _split_version(name: str) -> tuple[str, str | None]:
    base, colon, version = name.rpartition(":")
    return (base, version) if colon and base and version else (name, None)


def bring_inputs(spec: JobSpec, local: FolderWorkspace, azure: Callable[[], object | None], notify: Notify) -> JobSpec:
    """*spec* with a folder of this machine (`local`) for each input that is neither one already nor a folder of a
    datastore of *local*.

    Such inputs are downloaded from the workspace that *azure* gives, which is called only where it is needed; where it
    gives None they stay as they are. Raises NotFound for what that workspace does not have, and what the download
    raises.
    """
    names = {store.name for store in local.datastores()}
    default = spec.default_datastore
    known = default if default in names else None
    missing = [item for item in spec.inputs if item.local is None and local.input_folder(item, known) is None]
    is_foreign = default is not None and default not in names
    workspace = azure() if missing or is_foreign else None
    if not isinstance(workspace, CloudWorkspace):
        return spec
    found = {}
    for item in missing:
        folder = bring_dataset(workspace, item, default, notify)
        found[item.key] = replace(item, local=str(folder), target=None, mode=None, version=None)
    inputs = [found.get(item.key, item) for item in spec.inputs]
    return replace(spec, inputs=inputs, default_datastore=None if is_foreign else default)


def bring_dataset(workspace: CloudWorkspace, item: DataSpec, default_datastore: str | None, notify: Notify) -> Path:
    """The folder (or file) with the dataset's files: its `target`, else one in himl's cache. What is complete there is
    not downloaded again.

    On a node with several ranks only rank 0 downloads it. Raises NotFound where the workspace has no such dataset or it
    is empty, TransferIncomplete where the target holds other files under its names, and what `download` raises.
    """
    from himl_cli.services.transfer.download import download
    from himl_cli.services.transfer.plan import DownloadRequest
    from himl_cli.services.transfer.ranks import rank_zero_only

    dataset = workspace.dataset(item, default_datastore)
    store = dataset.files
    if item.target:
        folder, under = expand_home(item.target, "folder").absolute(), ""
    else:  # a folder of the user's cache for this version of the dataset at this place
        from himl_cli.core.files import cache_of

        digest = hashlib.sha256(f"{store.origin} {dataset.name} {dataset.version}".encode()).hexdigest()[:12]
        name = f"{dataset.name}-{dataset.version}" if dataset.version else dataset.name
        root = cache_of("datasets", "to keep datasets in", "Say where with target=FOLDER.")
        folder, under = root / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:80]}-{digest}", FILES
    if item.mode == "mount":
        notify(Notice(f"Input '{item.key}': nothing is mounted here; the dataset is downloaded instead."))
    version = f", version {dataset.version}," if dataset.version else ""
    source = f"dataset '{dataset.name}'{version} of {workspace.label}"
    notify(Notice(f"Input '{item.key}': {source} comes to '{folder / under}'."))
    request = DownloadRequest(folder, under=under, overwrite=item.target is None)

    def fetch() -> TransferResult:
        began = time.time()
        result = download(store, request, notify)
        if under and not (result.failed or result.refused or result.is_empty):
            _drop_stale(store, folder / under, result.files + result.skipped, began)
        return result

    result = rank_zero_only(folder, repr(("dataset", store.origin, request)), fetch, notify=notify)
    if result.is_empty:
        raise NotFound(
            f"Input '{item.key}': dataset '{dataset.name}' has no files.", hint="Is it the right name and version?"
        )
    if result.differing and not (result.failed or result.refused):
        raise TransferIncomplete(
            f"Input '{item.key}': '{folder}' holds other content under names of dataset '{dataset.name}': "
            f"{named(result.differing)}.",
            hint="Nothing of it was replaced. Name another folder with target=, or leave that out.",
        )
    result.raise_problem()
    if not dataset.is_file:
        return folder / under
    only = next((blob.name for page in store.list() for blob in page), None)
    if only is None:
        raise NotFound(f"The file of {store.label} is gone.")
    return folder / under / only


def _drop_stale(store: BlobStore, folder: Path, count: int, began: float) -> None:
    """Remove files that the dataset has no more: a cache that is older than its last change. *count* files of it are
    in *folder*."""
    stale = {found.name: found for found in walk_files(str(folder))}
    if len(stale) == count:
        return
    for page in store.list():
        for blob in page:
            stale.pop(blob.name, None)
    for found in stale.values():
        if found.stat.st_mtime < began:  # else another himl downloaded it meanwhile
            log.debug("'%s' is not in the dataset any more", found.path)
            path = Path(found.path)
            with suppress(OSError):
                path.unlink()
                for above in path.parents:
                    if above == folder:
                        break
                    above.rmdir()  # only an empty one

"""The data of a job: the values of `--input` and `--output`, and the download of datasets for local jobs. Both share
the specifications of data, but little code."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import BadUsage, DiskFailed, NotFound, TransferIncomplete
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import cache_of, expand_home, expand_user, walk_files
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.redaction import is_address, last_name, redact
from himl_cli.core.text import named
from himl_cli.services.submission.request import refuse
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, Dataset, FolderWorkspace, ManagedWorkspace

KEY = lazy_pattern(r"[A-Za-z_]\w*", re.ASCII)
# The beginning of an address or of another form of Azure ML, and a folder of a datastore of the workspace
REFERENCE = lazy_pattern(r"[a-z]+://|azureml:|/?subscriptions/", re.IGNORECASE)
_STORAGE = lazy_pattern(r"https://\w+\.(?:blob|dfs)\.[^?]*", re.IGNORECASE)
_STORED = lazy_pattern(r"azureml://datastores/(?P<datastore>\w+)/paths/(?P<path>.+)", re.IGNORECASE)
SENT_INPUTS = "inputs"  # the folder of a datastore for inputs from another machine
DATA_OPTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "input": {"datastore": (), "mode": ("download", "mount"), "target": (), "local": ()},
    "output": {"datastore": (), "mode": ("mount", "upload"), "local": (), "overwrite": ("true", "false")},
}


def parse_data(kind: str, values: Sequence[str | DataSpec]) -> list[DataSpec]:
    """The specifications of all `--input` or `--output` values (*kind*). Keys default to INPUT_0, INPUT_1, … A DataSpec
    stays as it is. Raises BadUsage."""
    specs: dict[str, DataSpec] = {}
    for number, value in enumerate(values):
        spec = value if isinstance(value, DataSpec) else _parse(kind, value, f"{kind.upper()}_{number}")
        if spec.key in specs:
            raise BadUsage(
                f"Two --{kind} options have the key '{spec.key}'.", hint=f"Use different keys: --{kind} KEY=NAME"
            )
        specs[spec.key] = spec
    return list(specs.values())


def _parse(kind: str, text: str, default_key: str) -> DataSpec:
    where = f"--{kind} '{redact(text)}': "
    head, *pairs = text.split(",")
    key, equals, name = head.partition("=")
    if not equals or REFERENCE.match(head):  # an address may contain "="
        key, equals, name = default_key, "", head
    if not KEY.fullmatch(key):
        hint = "Use letters, digits and _, and do not begin with a digit. himl uses the key in a variable's name."
        raise BadUsage(f"{where}'{key}' is not a valid key.", hint=hint)
    options: dict[str, Any] = {}
    known = DATA_OPTIONS[kind]
    for option, has_value, value in (pair.partition("=") for pair in pairs):
        near = get_close_matches(option, known, n=1)
        others = f"Did you mean {near[0]}=…?" if near else f"Use one of: {', '.join(known)}."
        values = known.get(option, ())
        refuse(
            where,
            (option not in known, f"unknown '{option}'.", others),
            (not has_value or not value, f"'{option}' has no value.", f"Write {option}=VALUE"),
            (
                bool(values) and value not in values,
                f"{option} cannot be '{value}'.",
                f"Use one of: {', '.join(values)}.",
            ),
        )
        options[option] = value
    path, last = expand_user(name), re.split(r"[/\\]", name.rstrip("/\\."))[-1] or "data"
    shown = f"{key}={last}" if equals else last
    upload = f"himl datastore upload {shlex.quote(path)} {shlex.quote(last)}, then " if kind == "input" else ""
    there = f"On a cluster: {upload}--{kind} {shlex.quote(shown)}"
    base, version = split_reference(name)
    given = base if REFERENCE.match(name) else name
    is_path = re.match(r"\.{1,2}(?:[/\\]|$)|[/\\~]|[A-Za-z]:[/\\]", given) is not None
    is_counted = version.isdigit() or version == "latest"
    stored = _STORED.fullmatch(base) if kind == "output" else None
    if stored and not options.get("datastore"):
        options["datastore"], base = stored["datastore"], stored["path"]
    refuse(
        where,
        (
            options.get("target", "").rstrip("/\\") == ".",
            "target=. would hide the script's own folder.",
            "Name another folder.",
        ),
        (
            is_path and "local" not in options,
            f"'{name}' is a path, not the name of a dataset.",
            f"On this machine: --{kind} {shlex.quote(f'{shown},local={path}')}. {there}",
        ),
        (
            kind == "output" and is_counted,
            "an output cannot have a version, because Azure ML assigns it.",
            f"Write {base} without ':{version}'.",
        ),
        (not base and "local" not in options, "the name is missing.", f"Write --{kind} [KEY=]NAME[,local=PATH]"),
        (
            "://" in base and "datastore" in options,
            "an address names its place, which datastore= cannot change.",
            "Omit datastore=.",
        ),
        (
            "://" in base and kind == "output",
            "an output is a folder of a datastore of the workspace.",
            "Write azureml://datastores/NAME/paths/FOLDER, or FOLDER,datastore=NAME",
        ),
    )
    if kind == "output" and version:
        base, version = f"{base}:{version}", ""
    options["overwrite"] = options.get("overwrite", "true") == "true"
    return DataSpec(key, base, version or None, is_folder=False, **options)


def split_reference(text: str) -> tuple[str, str]:
    """The name and the version of a dataset, from NAME:VERSION and Azure ML's forms of it (`azureml:NAME:VERSION`,
    `azureml:NAME@latest`), or an address: `azureml://…`, also for an id of a resource, or that of a storage. Without
    one, the version is empty."""
    if resource := re.fullmatch(r"(?:azureml:)?/?(subscriptions/.*)", text, re.IGNORECASE):
        return f"azureml://{resource[1]}", ""
    if "://" in text:
        return text, ""
    plain = re.sub(r"^azureml:", "", text, flags=re.IGNORECASE)
    base, sign, version = plain.rpartition(":")
    if not sign and (plain != text or plain.endswith("@latest")):
        base, _, version = plain.rpartition("@")
    return (base, version) if base and version else (plain, "")


def bring_inputs(
    spec: JobSpec,
    local: FolderWorkspace,
    azure: Callable[[], object | None],
    notify: Notify,
    open_address: Callable[[str], BlobStore] | None = None,
) -> JobSpec:
    """*spec* with a local folder (`local`) for each input that is neither a local folder nor a folder of a datastore of
    *local*.

    himl downloads a file of the web through *open_address*, and others from the workspace that *azure* returns. himl
    calls *azure* only if there are any. If it returns None, they stay as they are. Raises NotFound for a dataset that
    the workspace does not have, and the errors of the download.
    """
    default = spec.default_datastore
    is_foreign = default is not None and default not in [store.name for store in local.datastores()]
    known = None if is_foreign else default
    missing = [item for item in spec.inputs if item.local is None and local.input_folder(item, known) is None]
    web = {item.key: item for item in missing if open_address is not None and is_address(item.name)}
    # Storage of the workspace may need its sign-in, unless the address has a signature
    pages = {key for key, item in web.items() if not _STORAGE.fullmatch(item.name)}
    workspace = azure() if len(missing) > len(pages) or is_foreign else None
    found = {}
    for item in missing:
        folder = None
        if item.key not in pages and isinstance(workspace, CloudWorkspace):
            try:
                folder = bring_dataset(workspace, item, default, notify)
            except NotFound:
                if item.key not in web:
                    raise
        if folder is None and item.key in web and open_address is not None:
            page = Dataset(last_name(item.name) or item.key, "", open_address(item.name), is_file=True)
            folder = _bring(page, item, "", notify)
        if folder is None:
            continue
        # An absolute target is the folder itself, and a relative one becomes a link to it
        target = item.target if item.target and not os.path.isabs(expand_home(item.target, "folder")) else None
        found[item.key] = replace(item, local=str(folder), target=target, mode=None, version=None)
    inputs = [found.get(item.key, item) for item in spec.inputs] if found else spec.inputs
    known = known if isinstance(workspace, CloudWorkspace) else default
    return replace(spec, inputs=inputs, default_datastore=known)


def send_inputs(spec: JobSpec, workspace: ManagedWorkspace, notify: Notify) -> JobSpec:
    """*spec* for the *workspace* on another machine, whose default datastore gets each local input once, in a folder
    with a name from its contents. A file that is there is not sent again, and the rest of an interrupted upload is.

    Raises NotFound for a missing input, DiskFailed, TransferIncomplete, and the errors of the upload.
    """
    if not any(item.local for item in spec.inputs):
        return spec
    from himl_cli.services.transfer.plan import UploadRequest
    from himl_cli.services.transfer.upload import upload

    workspace.prepare(notify)
    inputs, store = [*spec.inputs], workspace.datastore()
    default = next(each.name for each in workspace.datastores() if each.is_default)
    for number, item in enumerate(inputs):
        if item.local is None:
            continue
        local = Path(item.local).absolute()
        if not local.exists():
            raise NotFound(f"Input '{item.key}': '{item.local}' does not exist.")
        files = _files_in(local)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", local.name)[:80]
        prefix = f"{SENT_INPUTS}/{name}-{_content_digest(files)[:16]}"
        result = upload(store, UploadRequest(local, prefix, validate=False), notify)
        if problems := [each.message for each in result.failed] + [each.reason for each in result.refused]:
            text = f"Input '{item.key}': {len(problems)} files of '{local}' could not be sent. {problems[0]}"
            raise TransferIncomplete(text, hint="Run the command again. It sends the rest.")
        if _files_in(local) != files:
            hint = "Run the command again when nothing writes to it."
            raise TransferIncomplete(f"Input '{item.key}': '{local}' changed while himl sent it.", hint=hint)
        sent = (
            f"sent {result.files:,} file{'s' * (result.files != 1)} of" if result.files else "all is there already of"
        )
        notify(Notice(f"Input '{item.key}': {sent} '{item.local}'."))
        name = f"{prefix}/{local.name}" if local.is_file() else prefix
        inputs[number] = replace(item, name=name, datastore=default, local=None, version=None, is_folder=True)
    return replace(spec, inputs=inputs)


def _files_in(local: Path) -> list[tuple[str, str, int, int]]:
    """The names, paths, sizes and times of change of the file or of the files in the folder."""
    if local.is_file():
        status = local.stat()
        return [(local.name, str(local), status.st_size, status.st_mtime_ns)]
    return [(each.name, each.path, each.stat.st_size, each.stat.st_mtime_ns) for each in walk_files(str(local))]


def _content_digest(files: Sequence[tuple[str, str, int, int]]) -> str:
    """The SHA-256 of the names and the contents of the files. Raises DiskFailed."""
    import hashlib

    from himl_cli.services.transfer.digests import md5_of

    whole = hashlib.sha256()
    for name, path, *_ in files:
        try:
            whole.update(f"{name}\0{md5_of(path).hex()}\n".encode("utf-8", "surrogateescape"))
        except OSError as err:
            raise DiskFailed(f"Cannot read '{path}': {err.strerror or err}.") from err
    return whole.hexdigest()


def bring_dataset(workspace: CloudWorkspace, item: DataSpec, default_datastore: str | None, notify: Notify) -> Path:
    """The folder (or file) of the downloaded dataset: its `target`, else a folder in himl's cache. Files that are
    complete are not downloaded again.

    On a node with several ranks, only rank 0 downloads. Raises NotFound if the workspace has no such dataset or it is
    empty, TransferIncomplete if the target has different files of the same names, and the errors of `download`.
    """
    return _bring(workspace.dataset(item, default_datastore), item, f" of {workspace.label}", notify)


def _bring(dataset: Dataset, item: DataSpec, place: str, notify: Notify) -> Path:
    import hashlib

    from himl_cli.services.transfer.download import download
    from himl_cli.services.transfer.plan import DownloadRequest
    from himl_cli.services.transfer.ranks import rank_zero_only

    store = dataset.files
    if item.target:
        folder, under = expand_home(item.target, "folder").absolute(), ""
    else:  # a folder in the user's cache for this version of the dataset in this workspace
        digest = hashlib.sha256(f"{store.origin} {dataset.name} {dataset.version}".encode()).hexdigest()[:12]
        name = f"{dataset.name}-{dataset.version}" if dataset.version else dataset.name
        root = cache_of("datasets", "for datasets", "Name a folder with target=FOLDER.")
        folder = root / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:80]}-{digest}"
        under = "files"  # keeps himl's records of transfers out of the dataset's folder
    if item.mode == "mount":
        notify(Notice(f"Input '{item.key}': himl downloads the dataset, because it cannot mount it on this machine."))
    version = f", version {dataset.version}," if dataset.version else ""
    source = f"dataset '{redact(dataset.name)}'{version}{place}"
    notify(Notice(f"Input '{item.key}': downloading {source} to '{folder / under}'."))
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
            f"Input '{item.key}': dataset '{dataset.name}' has no files.", hint="Check its name and version."
        )
    if result.differing and not (result.failed or result.refused):
        raise TransferIncomplete(
            f"Input '{item.key}': '{folder}' has other versions of files of dataset '{dataset.name}': "
            f"{named(result.differing)}.",
            hint="himl replaced none of them. Name another folder with target=, or omit target=.",
        )
    result.raise_problem()
    if not dataset.is_file:
        return folder / under
    only = next((blob.name for page in store.list() for blob in page), None)
    if only is None:
        raise NotFound(f"The file of {store.label} no longer exists.")
    return folder / under / only


def _drop_stale(store: BlobStore, folder: Path, count: int, began: float) -> None:
    """Remove files that the dataset no longer has, from a cache that is older than its last change. *folder* has
    *count* files of the dataset."""
    stale = {found.name: found for found in walk_files(str(folder))}
    if len(stale) == count:
        return
    for page in store.list():
        for blob in page:
            stale.pop(blob.name.lstrip("/"), None)
    for found in stale.values():
        if found.stat.st_mtime < began:  # a newer file comes from another himl process
            path = Path(found.path)
            with suppress(OSError):
                path.unlink()
                for above in path.parents:
                    if above == folder:
                        break
                    above.rmdir()  # fails if the folder is not empty

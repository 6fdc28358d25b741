"""Runs as an archive, a folder or a zip file: their records, logged values, code, environments and files, with
checksums and metadata as an RO-Crate. Import of such an archive, whose contents are not trusted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from himl_cli import __version__
from himl_cli.core.documents import from_document, has_type, to_document
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, IntegrityFailed, NotFound
from himl_cli.core.events import Notify
from himl_cli.core.files import flush, make_folder, remove_tree, temporary_folder, walk_files
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.jobs import EntryKind, StoredJob
from himl_cli.core.json_text import read_valid_json
from himl_cli.core.logged import Logged, LoggedKind, LoggedRow, Metric, Texts
from himl_cli.core.redaction import mask_arguments, mask_document, mask_line
from himl_cli.core.runs import Run, RunQuery, RunStatus, check_known
from himl_cli.core.sweeps import TRIAL
from himl_cli.core.text import utc_text
from himl_cli.services.runs.writing import store_files
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.local_files import UnsafeName, safe_relative
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, Workspace

MANIFEST, CRATE, FORMAT = "himl-runs.json", "ro-crate-metadata.json", 1
BEGIN_OF_ZIP = b"PK\3\4"
COPY_AGAIN = "Copy the archive again."
IMPORTED = "himl.imported_from"  # the tag of an imported run with the workspace that it comes from
LARGEST_MANIFEST = 1 << 28  # bytes
OTHER_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_STATES = {RunStatus.completed: "Completed", RunStatus.failed: "Failed", RunStatus.canceled: "Failed"}


def export_runs(workspace: Workspace, runs: Sequence[Run], target: Path, notify: Notify) -> list[Run]:
    """Write *runs* and all runs below them to *target*, a new folder or a new `.zip`, and return them. Secrets in
    arguments are masked, and values of environment variables left out.

    Raises BadUsage if *target* exists, and for a run in progress, DiskFailed, and the errors of the workspace.
    """
    exists = BadUsage(f"'{target}' exists already.", hint="Name a new file or folder with --to.")
    if os.path.lexists(target):
        raise exists
    if target.suffix.lower() in OTHER_ARCHIVES:
        hint = f"For example: --to {shlex.quote(str(target.with_name(target.name.partition('.')[0] + '.zip')))}"
        raise BadUsage(f"himl writes a .zip or a folder, and not '{target}'.", hint=hint)
    every = [each for run in runs for each in _with_descendants(workspace, run)]
    every = [*{run.id: run for run in every}.values()]
    for run in every:
        if not run.status.is_final:
            check_known(run, "himl runs cancel")
            raise BadUsage(f"Run '{run.id}' is still in progress.", hint="Wait for its end: himl runs list --watch")
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.absolute().parent, ".himl-") as made:
            folder = made / "archive"
            records = [_write_run(workspace, run, folder / run.id, notify) for run in every]
            files = {name: _facts(folder / name) for name in sorted(each.name for each in walk_files(str(folder)))}
            manifest = {"format": FORMAT, "himl": __version__, "runs": records, "files": files}
            _write(folder / MANIFEST, manifest)
            _write(folder / CRATE, _crate(every, {**files, MANIFEST: _facts(folder / MANIFEST)}))
            part = folder
            if target.suffix.lower() == ".zip":
                part = made / "part.zip"
                with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
                    for name in sorted(each.name for each in walk_files(str(folder))):
                        archive.write(folder / name, name)
            flush(made)
            publish = os.rename if part == folder else os.link  # which, unlike a rename, never replaces a file
            try:
                publish(part, target)
            except FileExistsError:
                raise exists from None
            except OSError:
                if part == folder:
                    raise
                os.rename(part, target)  # on a file system without links
            flush(target.absolute().parent, ())
    except OSError as err:
        raise DiskFailed(f"Cannot write '{target}': {err.strerror or err}.") from err
    return every


def _with_descendants(workspace: Workspace, run: Run) -> Iterator[Run]:
    yield run
    for child in workspace.runs(RunQuery(parent=run.id, archived=None)):
        yield from _with_descendants(workspace, child)


def _write_run(workspace: Workspace, run: Run, folder: Path, notify: Notify) -> dict[str, Any]:
    """Write the files of one run to *folder*, and return its record."""
    job, environment = workspace.stored_job(run.id), workspace.environment(run.id)
    code = workspace.code_files(run.id) if TRIAL not in run.tags else None  # trials have the code of their sweep
    if code is not None:
        store, names = code
        _fetch(store, folder / "code", None if names is None else {*names}, notify)  # type: ignore[misc]
    _fetch(workspace.run_files(run.id), folder / "files", None, notify)
    values = workspace.values(run.id)
    every: Sequence[Metric | Texts] = [*values.metrics, *values.texts]
    logged = [_logged(each) for each in every if each.run == run.id]
    return {
        "run": to_document(replace(run, tags=mask_document(run.tags))),
        "parameters": mask_document({**workspace.parameters(run.id)}),
        "logged": [to_document(each) for each in logged],
        "job": None if job is None else to_document(_without_secrets(job)),
        "environment": None if environment is None else to_document(environment),
    }


def _logged(found: Metric | Texts) -> Logged:
    rows = [LoggedRow({found.name: point.value}, point.step, point.time) for point in found.points]
    return Logged(found.name, LoggedKind.scalar, rows)


def _without_secrets(job: StoredJob) -> StoredJob:
    spec, entry = job.spec, job.spec.entry
    entry = replace(entry, target=mask_line(entry.target)) if entry.kind is EntryKind.command else entry
    spec = replace(spec, arguments=mask_arguments(spec.arguments), entry=entry, env={}, webhook=None, docker_args=())
    return StoredJob(spec, sorted({*job.missing, *job.spec.env}))


def _fetch(store: BlobStore, folder: Path, names: set[str] | None, notify: Notify) -> None:
    blobs = [blob for page in store.list() for blob in page if names is None or blob.name in names]
    result = download(store, DownloadRequest(folder), notify, blobs=blobs)
    if failed := result.failed:
        raise IntegrityFailed(f"Cannot read '{failed[0].name}': {failed[0].message}", hint=failed[0].hint)
    if refused := result.refused:
        raise IntegrityFailed(f"Cannot write '{refused[0].name}' to the archive: {refused[0].reason}.")


def _facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def _write(path: Path, content: Any) -> None:
    make_folder(path.parent)
    path.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")


def _crate(runs: Sequence[Run], files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The metadata of the archive as an RO-Crate 1.1, with an action for each run."""
    parts = [
        {"@id": quote(name), "@type": "File", "name": name, "contentSize": str(each["size"]), "sha256": each["sha256"]}
        for name, each in files.items()
    ]
    actions = []
    for run in runs:
        own = [quote(name) for name in files if name.startswith(f"{run.id}/")]
        action: dict[str, Any] = {
            "@id": f"#{quote(run.id)}",
            "@type": "CreateAction",
            "name": run.display_name or run.id,
        }
        action |= {"description": run.command, "startTime": run.started and utc_text(run.started)}
        action |= {"endTime": run.ended and utc_text(run.ended), "result": _references(own)}
        actions.append(action | {"actionStatus": f"http://schema.org/{_STATES[run.status]}ActionStatus"})
    about = f"Runs of machine learning: {', '.join(run.id for run in runs)}"
    root: dict[str, Any] = {"@id": "./", "@type": "Dataset", "name": "Runs of himl", "description": about}
    root |= {"datePublished": utc_text(datetime.now(timezone.utc)), "license": "Not stated."}
    root |= {"hasPart": _references([each["@id"] for each in parts])}
    root |= {"mentions": _references([each["@id"] for each in actions])}
    version = "https://w3id.org/ro/crate/1.1"
    descriptor = {"@id": CRATE, "@type": "CreativeWork", "conformsTo": {"@id": version}, "about": {"@id": "./"}}
    return {"@context": f"{version}/context", "@graph": [descriptor, root, *parts, *actions]}


def _references(ids: Sequence[str]) -> Any:
    """References to entities: a single one is no array (RO-Crate 1.1, appendix on JSON-LD)."""
    found = [{"@id": each} for each in ids]
    return found[0] if len(found) == 1 else found


def import_runs(workspace: FolderWorkspace, source: Path, notify: Notify) -> list[Run]:
    """Record the runs of the archive *source* in *workspace*, which is created if it does not exist, and return them.

    Raises NotFound for a missing archive, BadUsage for one that himl did not write or with a name that leads out of it,
    and for runs that exist already, IntegrityFailed for a file that differs from its checksum. It records no run then,
    and leaves no new workspace.
    """
    with _opened(source) as folder:
        records = _checked(folder, source)
        try:
            runs = [from_document(Run, record["run"]) for record in records]
            jobs = [record["job"] and from_document(StoredJob, record["job"]) for record in records]
            environments = [
                record["environment"] and from_document(RunEnvironment, record["environment"]) for record in records
            ]
            logged = [[from_document(Logged, each) for each in record["logged"]] for record in records]
            parameters = [dict(record["parameters"]) for record in records]
            kinds: Sequence[tuple[Any, Sequence[object]]] = (
                (Run, runs),
                (StoredJob | None, jobs),
                (RunEnvironment | None, environments),
                (Sequence[Logged], logged),
                (Mapping[str, str], parameters),
            )
            if not all(has_type(kind, each) for kind, found in kinds for each in found):
                raise TypeError("a value has another type than its field")
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as err:
            raise _invalid(source, f"{type(err).__name__}: {err}") from err
        is_new = not workspace.folder.is_dir()
        known = set() if is_new else {*workspace.known_ids()}
        if there := [run.id for run in runs if run.id in known]:
            hint = f"See it: himl runs show {there[0]}"
            raise BadUsage(f"Run '{there[0]}' exists already in {workspace.label}.", hint=hint)
        if not all(len(_parts(run.id, source)) == 1 and run.status.is_final for run in runs):
            raise _invalid(source, "a run has an invalid id or no end")
        ids, imported = {run.id for run in runs}, list[Run]()
        try:
            workspace.prepare(notify)
            for run, job, environment, entries, given in zip(runs, jobs, environments, logged, parameters, strict=True):
                places = [folder / each / "code" for each in (run.id, run.parent or "") if each in ids]
                code = next(filter(os.path.isdir, places), None)
                origin = {IMPORTED: run.workspace} if run.workspace else {}
                parent = run.parent if run.parent in ids or run.parent in known else None  # lists have no lone trials
                own = replace(run, parent=parent, tags={**run.tags, **origin}, url="", folder="")
                imported.append(workspace.adopt(own, job, code, environment))
                workspace.log_parameters(run.id, given)
                for entry in entries:
                    workspace.log(run.id, [entry])
                below = folder / run.id / "files"
                names = [each.name for each in walk_files(str(below))] if os.path.isdir(below) else []
                store_files(workspace.run_files(run.id), {name: below / name for name in names})
        except BaseException:  # a run without all its files would look complete
            for run in reversed(imported):
                with suppress(HimlError):
                    workspace.delete(run.id)
            if is_new and not workspace.known_ids():
                with suppress(OSError):
                    remove_tree(workspace.folder)
            raise
    return runs


def _invalid(source: Path, problem: str) -> BadUsage:
    hint = "Write one: himl runs export RUN --to FILE.zip"
    return BadUsage(f"'{source}' is not an archive of runs: {problem}.", hint=hint)


def _parts(name: str, source: Path) -> tuple[str, ...]:
    """The folders and the file of *name*. Raises BadUsage for one that leads out, or that the system cannot store."""
    try:
        return safe_relative(name)
    except UnsafeName as err:
        raise _invalid(source, f"it has the name '{name}', but {err}") from err


@contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """Yield the folder with the contents of *source*, for a zip a temporary one. Raises NotFound, BadUsage,
    IntegrityFailed."""
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise NotFound(f"There is no file or folder '{source}'.")
    with temporary_folder() as folder:
        try:
            with zipfile.ZipFile(source) as archive:
                infos = {info.filename: info for info in archive.infolist()}
                if not {info.compress_type for info in infos.values()} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                    raise _invalid(source, "its files are compressed with something other than Deflate")
                manifest = infos.get(MANIFEST)
                if manifest is None or manifest.file_size > LARGEST_MANIFEST:
                    raise _invalid(source, f"it has no {MANIFEST}")
                (folder / MANIFEST).write_bytes(archive.read(manifest))
                for name, facts in _listed(folder, source).items():
                    if (info := infos.get(name)) is not None and info.file_size == facts["size"]:
                        make_folder((folder / name).parent)
                        with archive.open(info) as stream, (folder / name).open("xb") as copy:
                            shutil.copyfileobj(stream, copy)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError) as err:
            with source.open("rb") as stream:
                is_zip = stream.read(len(BEGIN_OF_ZIP)) == BEGIN_OF_ZIP
            if not is_zip:
                raise _invalid(source, str(err)) from err
            raise IntegrityFailed(f"'{source}' is damaged: {err}.", hint=COPY_AGAIN) from err
        except OSError as err:
            if err.errno == errno.EINVAL:  # a seek to a place before the first byte
                raise IntegrityFailed(f"'{source}' is damaged: a part is missing.", hint=COPY_AGAIN) from err
            raise DiskFailed(f"Cannot unpack '{source}': {err.strerror or err}.") from err
        yield folder


def _manifest(folder: Path, source: Path) -> Mapping[str, Any]:
    try:
        with (folder / MANIFEST).open("rb") as stream:
            found = read_valid_json(stream.read(LARGEST_MANIFEST))
        if found["format"] != FORMAT:
            raise _invalid(source, f"its format is {found['format']}, not {FORMAT}")
        return dict(found)
    except (OSError, KeyError, TypeError, ValueError) as err:
        raise _invalid(source, f"its {MANIFEST} cannot be read") from err


def _listed(folder: Path, source: Path) -> Mapping[str, Mapping[str, Any]]:
    """The files that the manifest lists, with their sizes and checksums. Raises BadUsage for an unsafe name."""
    files = _manifest(folder, source).get("files")
    found = files.values() if isinstance(files, dict) else [None]
    if not isinstance(files, dict) or not all(
        isinstance(each, dict) and {"size", "sha256"} <= {*each} for each in found
    ):
        raise _invalid(source, "it lists no files")
    for name in files:
        _parts(name, source)
    return files


def _checked(folder: Path, source: Path) -> Sequence[Mapping[str, Any]]:
    """The records of the runs, after the check of all files."""
    files, root = _listed(folder, source), os.path.realpath(folder)
    for name, facts in files.items():
        path = folder / name
        is_inside = os.path.realpath(path) == os.path.join(root, *_parts(name, source))  # no link on its way
        if not is_inside or not os.path.isfile(path) or {**facts, **_facts(path)} != facts:
            problem = f"'{name}' of '{source}' is missing or differs from its checksum."
            raise IntegrityFailed(problem, hint=COPY_AGAIN)
    records = _manifest(folder, source).get("runs")
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise _invalid(source, "it has no runs")
    return records

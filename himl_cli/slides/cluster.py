"""Montages and tiles as jobs on a cluster: the same command on mounted data."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path, PureWindowsPath

from himl_cli import __version__
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.files import expand_user
from himl_cli.core.installation import PACKAGE, environment_hint, requirement_elsewhere
from himl_cli.core.jobs import DataSpec
from himl_cli.core.records import dataclass
from himl_cli.services.submission.environment_checks import holds_package
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import PreparedJob, SubmitRequest
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.upload import checked_prefix
from himl_cli.slides.query import INCLUDE, image_pattern, no_ids, read_ids
from himl_cli.slides.stored import CSV, check_csv, split_dataset
from himl_cli.workspaces.base import BlobStore

INPUT, OUTPUT = "slides", "outputs"
PYTHON = "3.11"


@dataclass(frozen=True, kw_only=True)
class SlideJob:
    """A *command* on slides, montage or tiles, to run in *job*, whose cluster, environment and names are set.

    `dataset` is the name of a registered dataset, or a folder or CSV of the datastore. `image_glob` selects its files.
    `options` are the other options of the command. `lists` are local files with ids, by the option that takes them, and
    `files` other local files and folders. Paths are relative to `job.cwd`.
    """

    command: str
    job: SubmitRequest
    dataset: str
    image_glob: str | None = None
    options: Sequence[str] = ()
    lists: Mapping[str, Path] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    datastore: str | None = None


def prepare_slide_job(request: SlideJob, folder: Path) -> PreparedJob:
    """Prepare the job. Its snapshot is created in *folder*, which is empty and must exist until the job is submitted.
    Makes no request.

    Raises BadUsage for data that a cluster cannot access, for lists that are unreadable or leave no slides, and for a
    version of himl that exists only on this machine. Raises NotFound, DiskFailed.
    """
    data, csv = _data(request)
    image_pattern(request.image_glob, csv)
    for option, path in request.lists.items():
        if not (request.job.cwd / path).is_file():
            raise BadUsage(
                f"{option}: there is no file '{path}'.", hint="Check the path, relative to the current folder."
            )
        if not read_ids(request.job.cwd / path, option) and option == INCLUDE:
            raise no_ids(f"{option}: '{path}'")
    placeholder = f"${{{{inputs.{INPUT}}}}}"
    arguments = [request.command, posixpath.join(placeholder, csv) if csv else placeholder]
    arguments += [] if request.image_glob is None else [f"--image_glob={request.image_glob}"]
    arguments += [*request.options, f"--output_path={OUTPUT}"]
    wheel, conda_env = request.job.private_wheel, request.job.conda_env
    is_own_wheel = wheel is not None and Path(wheel).name.startswith(f"{PACKAGE.replace('-', '_')}-")
    try:
        arguments += _snapshot(request, folder / "snapshot", arguments)
        if not request.job.conda_env:
            package = f"{PACKAGE}[montage]" if is_own_wheel else requirement_elsewhere("montage", __version__)
            text = f"channels:\n- conda-forge\ndependencies:\n- python={PYTHON}\n- pip\n- pip:\n  - '{package}'\n"
            conda_env = [str(folder / "environment.yml")]
            Path(conda_env[0]).write_text(text, encoding="utf-8")
    except OSError as err:
        raise disk_error(err, f"Cannot write to '{folder}'") from err
    of_job = replace(
        request.job,
        module="himl_cli",
        arguments=arguments,
        snapshot_root=str(folder / "snapshot"),
        inputs=[data],
        conda_env=conda_env,
        experiment=request.job.experiment or request.command,
    )
    job = prepare_job(of_job)
    remarks = [*job.remarks]
    if not request.job.conda_env and is_own_wheel:
        remarks.append(f"Environment of the job: Python {PYTHON} and '{wheel}' with the extra montage.")
    elif not request.job.conda_env:
        remarks.append(
            f"Environment of the job: Python {PYTHON} and {package}, which pip installs when the image is built. "
            "If pip cannot find it, use --private_wheel FILE or --conda_env FILE."
        )
    elif job.spec.environment is not None and not holds_package(job.spec.environment):
        lacks = f"warning: the job runs himl, but its environment lacks {PACKAGE}: {environment_hint('montage')}."
        remarks.append(lacks)
    return replace(job, report=None, remarks=remarks)


def check_data(request: SlideJob, datastore: Callable[[str], BlobStore]) -> None:
    """Check that a CSV exists in its datastore, from *datastore*, because a job on a mounted folder would notice too
    late. Raises NotFound."""
    data, csv = _data(request)
    if data.is_folder and csv is not None:
        check_csv(datastore(str(request.datastore)), request.dataset)


def _data(request: SlideJob) -> tuple[DataSpec, str | None]:
    """Input of the job for the data, and the name of the CSV in it, if the user gave one. Raises BadUsage and NotFound
    for a local path.

    With a datastore, a name is a folder of it. Without one, it is a dataset, if that exists. `NAME:VERSION` is always a
    dataset.
    """
    if request.datastore is None:
        _check_is_no_path(request)
    name, csv = split_dataset(request.dataset)
    if versioned := re.fullmatch(r"([^/:]+):([^/:]+)", name):
        return DataSpec(INPUT, versioned[1], versioned[2], datastore=request.datastore, mode="mount"), csv
    name = checked_prefix(name)
    if not name:
        raise BadUsage(
            f"'{request.dataset}' is not a folder below the top of a datastore, as a job needs.",
            hint="Move the slides to such a folder.",
        )
    is_folder = request.datastore is not None
    return DataSpec(INPUT, name, datastore=request.datastore, mode="mount", is_folder=is_folder), csv


def _check_is_no_path(request: SlideJob) -> None:
    """Raise for a local path, or a possible one: BadUsage for an existing one, with the commands that upload the folder
    or CSV, else NotFound. The message omits a folder that contains the current folder or the user's home folder."""
    cwd, cluster, text = request.job.cwd, str(request.job.cluster), expand_user(request.dataset)
    path = cwd / text
    if os.path.exists(path):
        source, csv = (text, "") if path.is_dir() else (os.path.dirname(text), f"/{path.name}")
        folder = (cwd / source).resolve()
        is_too_much = any(each.resolve().is_relative_to(folder) for each in (cwd, Path(os.path.expanduser("~"))))
        hint = (
            f"Upload it: himl datastore upload {shlex.quote(source)} {shlex.quote(folder.name)} --datastore NAME. Then "
            f"use '{folder.name}{csv}' and --datastore NAME."
        )
        if is_too_much or not (path.is_dir() or path.suffix.lower() == CSV):
            hint = (
                "Upload the folder of the slides: himl datastore upload FOLDER slides --datastore NAME. Then use "
                "'slides' and --datastore NAME."
            )
        what = f"'{request.dataset}' is on this machine, which cluster '{cluster}' cannot access."
        raise BadUsage(what, hint=hint)
    if text.startswith(("~", "./", "../", ".\\", "..\\")) or os.path.isabs(text) or PureWindowsPath(text).drive:
        raise NotFound(
            f"There is no local '{request.dataset}', and a cluster needs slides in a datastore.",
            hint=(
                f"Use a folder of a datastore: himl {request.command} FOLDER --datastore NAME "
                f"--cluster {shlex.quote(cluster)}"
            ),
        )


def _snapshot(request: SlideJob, snapshot: Path, arguments: Sequence[str]) -> Sequence[str]:
    """Create the snapshot: the lists and files, or the command if there are none, since an empty one is rejected.
    Return the options with the paths in it."""
    snapshot.mkdir()
    options = []
    for option, path in {**request.lists, **request.files}.items():
        name = f"{option.lstrip('-')}{path.suffix.lower() if re.fullmatch(r'[.][A-Za-z0-9]+', path.suffix) else ''}"
        try:
            copy = shutil.copytree if (request.job.cwd / path).is_dir() else shutil.copyfile
            copy(request.job.cwd / path, snapshot / name)
        except OSError as err:
            raise disk_error(err, f"{option}: cannot read '{path}'") from err
        options.append(f"{option}={name}")
    if not options:
        (snapshot / "command.txt").write_text(f"himl {shlex.join(arguments)}\n", encoding="utf-8")
    return options

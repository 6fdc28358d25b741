"""A montage, or tiles, as a job on a cluster: the same command, on data that is mounted there."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath

from himl_cli import __version__
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.files import expand_user
from himl_cli.core.installation import PACKAGE, environment_hint, requirement_elsewhere
from himl_cli.core.jobs import DataSpec
from himl_cli.services.montage.query import INCLUDE, image_pattern, no_ids, read_ids
from himl_cli.services.montage.stored import CSV, check_csv, split_dataset
from himl_cli.services.submission.environment_checks import holds_package
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import PreparedJob, SubmitRequest
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.upload import checked_prefix
from himl_cli.workspaces.base import BlobStore

INPUT, OUTPUT = "slides", "outputs"
PYTHON = "3.11"


@dataclass(frozen=True, kw_only=True)
class SlideJob:
    """A *command* on slides, montage or tiles, for a *job* to run, whose cluster, environment and names are set.

    `dataset` is the name of a registered dataset, or a folder or CSV of the datastore; `image_glob` chooses files of
    it; `options` are all others of the command, as it takes them; `lists` are files of this machine by the option
    that takes them. Paths are relative to `job.cwd`.
    """

    command: str
    job: SubmitRequest
    dataset: str
    image_glob: str | None = None
    options: Sequence[str] = ()
    lists: Mapping[str, Path] = field(default_factory=dict)
    datastore: str | None = None


def prepare_slide_job(request: SlideJob, folder: Path) -> PreparedJob:
    """The job; what is sent with it is put into *folder*, which is empty and has to stay until the job is submitted. No
    request is made.

    Raises BadUsage for data that a cluster cannot see, for lists that cannot be read or leave no slide, and for a himl
    that is to be had on this machine alone; NotFound, DiskFailed.
    """
    data, csv = _data(request)
    image_pattern(request.image_glob, csv)
    for option, path in request.lists.items():
        if not (request.job.cwd / path).is_file():
            raise BadUsage(
                f"{option}: there is no file '{path}'.", hint="Check the path; it is relative to the current folder."
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
        remarks.append(f"Environment of the job: Python {PYTHON} and '{wheel}' with its extra montage.")
    elif not request.job.conda_env:
        remarks.append(
            f"Environment of the job: Python {PYTHON} and {package}, which pip has to find when the image is built. "
            "If it does not: --private_wheel FILE or --conda_env FILE."
        )
    elif job.spec.environment is not None and not holds_package(job.spec.environment):
        lacks = f"warning: the job runs himl, and its environment lacks {PACKAGE}: {environment_hint('montage')}."
        remarks.append(lacks)
    return replace(job, report=None, remarks=remarks)


def check_data(request: SlideJob, datastore: Callable[[str], BlobStore]) -> None:
    """Look for a CSV of a datastore, *datastore* giving it by name, as a job on a mounted folder would look too late.
    Raises NotFound."""
    data, csv = _data(request)
    if data.is_folder and csv is not None:
        check_csv(datastore(str(request.datastore)), request.dataset)


def _data(request: SlideJob) -> tuple[DataSpec, str | None]:
    """The data as an input of the job, and the name of the CSV in it, where one was named. Raises BadUsage and NotFound
    for a path of this machine.

    With a datastore a name is a folder of that, and without one a dataset if there is one; `NAME:VERSION` is a dataset
    in any case.
    """
    if request.datastore is None:
        _check_is_no_path(request)
    name, csv = split_dataset(request.dataset)
    if versioned := re.fullmatch(r"([^/:]+):([^/:]+)", name):
        return DataSpec(INPUT, versioned[1], versioned[2], datastore=request.datastore, mode="mount"), csv
    name = checked_prefix(name)
    if not name:
        raise BadUsage(
            f"'{request.dataset}' is no folder of a datastore: a job's data is a folder below its top.",
            hint="Put the slides into a folder of it.",
        )
    is_folder = request.datastore is not None
    return DataSpec(INPUT, name, datastore=request.datastore, mode="mount", is_folder=is_folder), csv


def _check_is_no_path(request: SlideJob) -> None:
    """Raises for what is a path of this machine, or could be: BadUsage for one that is there, saying how the folder or
    CSV comes to a datastore, else NotFound. A folder that also holds the current one or the user's home is not
    named."""
    cwd, cluster, text = request.job.cwd, str(request.job.cluster), expand_user(request.dataset)
    path = cwd / text
    if os.path.exists(path):
        source, csv = (text, "") if path.is_dir() else (os.path.dirname(text), f"/{path.name}")
        folder = (cwd / source).resolve()
        is_too_much = any(each.resolve().is_relative_to(folder) for each in (cwd, Path(os.path.expanduser("~"))))
        hint = (
            f"Upload it: himl datastore upload {shlex.quote(source)} {shlex.quote(folder.name)} --datastore NAME; then "
            f"name '{folder.name}{csv}' and --datastore NAME."
        )
        if is_too_much or not (path.is_dir() or path.suffix.lower() == CSV):
            hint = (
                "Upload the folder of the slides: himl datastore upload FOLDER slides --datastore NAME; then name "
                "'slides' and --datastore NAME."
            )
        what = f"'{request.dataset}' lies on this machine, where cluster '{cluster}' cannot see it."
        raise BadUsage(what, hint=hint)
    if text.startswith(("~", "./", "../", ".\\", "..\\")) or os.path.isabs(text) or PureWindowsPath(text).drive:
        raise NotFound(
            f"There is no '{request.dataset}' here, and on a cluster the slides are those of a datastore.",
            hint=(
                f"Name a folder of a datastore: himl {request.command} FOLDER --datastore NAME "
                f"--cluster {shlex.quote(cluster)}"
            ),
        )


def _snapshot(request: SlideJob, snapshot: Path, arguments: Sequence[str]) -> Sequence[str]:
    """Make the folder that is sent: the lists, else the command, for an empty one is refused. Gives the options that
    name the lists there."""
    snapshot.mkdir()
    options = []
    for option, path in request.lists.items():
        name = f"{option.lstrip('-')}{path.suffix.lower() if re.fullmatch(r'[.][A-Za-z0-9]+', path.suffix) else ''}"
        try:
            shutil.copyfile(request.job.cwd / path, snapshot / name)
        except OSError as err:
            raise disk_error(err, f"{option}: cannot read '{path}'") from err
        options.append(f"{option}={name}")
    if not options:
        (snapshot / "command.txt").write_text(f"himl {shlex.join(arguments)}\n", encoding="utf-8")
    return options

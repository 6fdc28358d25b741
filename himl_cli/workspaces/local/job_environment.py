"""What a job on this machine sees, as far as it makes sense what a script would see on Azure ML: the folders of its
inputs and outputs, its command line, its variables."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import VARIABLE_PREFIX, DataSpec, EntryKind, JobSpec, check_placeholders
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.workspaces.local.launch_request import LaunchRequest

RUN_NAME = "${{name}}"
"""What stands for the run's id in the name of an output, as on Azure ML."""
RUN_FOLDER = "HIML_RUN_FOLDER"
"""The folder of the job's run: by it, what the script logs finds the workspace."""
OF_OTHER_JOBS = ("AZURE_ML_INPUT_", "AZURE_ML_OUTPUT_", "AZUREML_SWEEP_", VARIABLE_PREFIX)
RANK_NAMES = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}
_PYTHON = re.compile(r"^\s*python3?(?=\s)")
_SPECIAL = re.compile(r"[\\'\"`$&|;<>(){}*?\[\]~#!\n]")
_UNQUOTABLE = re.compile(r"[`#]|<<|\$['\"({]|\\\Z")
"""Behind one of these it takes a shell to tell which quotes are open."""
_QUOTED = re.compile(r"""(?:[^'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*""", re.DOTALL)


def resolve_folders(spec: JobSpec, default: Path, run_id: str, notify: Notify) -> tuple[dict[str, str], dict[str, str]]:
    """The folders of the job's inputs, and those of its outputs for the run *run_id*, by key; nothing is made.
    *default* is the folder of the default datastore.

    Raises NotFound for an input that is nowhere, BadUsage for an output that must not exist, an unknown placeholder or
    one that cannot be filled.
    """
    inputs = {item.key: str(_input_folder(item, default, notify)) for item in spec.inputs}
    outputs = {item.key: str(output_folder(item, default, run_id)) for item in spec.outputs}
    check_placeholders(spec)
    if spec.entry.kind is EntryKind.command:
        fill_command(spec.entry.target, {"inputs": inputs, "outputs": outputs})
    return inputs, outputs


def _input_folder(item: DataSpec, default: Path, notify: Notify) -> Path:
    if item.local is not None:
        folder = Path(item.local).absolute()
        if not folder.exists():
            raise NotFound(f"Input '{item.key}': '{item.local}' does not exist.")
    else:
        folder = datastore_folder(item, default)
        if not folder.exists():
            local = item.name if Path(item.name).exists() else "FOLDER"
            raise NotFound(
                f"Input '{item.key}': no folder '{item.name}' in the local datastore '{folder.parent}'.",
                hint=f"Put the data there ('himl datastore upload {local} {item.name}'), or name a folder: --input "
                f"{item.key}={item.name},local={local}",
            )
        if item.version is not None:
            notify(Notice(f"Input '{item.key}': folders here have no versions; ':{item.version}' is passed over."))
    if item.target is not None:
        notify(Notice(f"Input '{item.key}': 'target={item.target}' is for Azure ML; here the folder is '{folder}'."))
    return folder


def output_folder(item: DataSpec, default: Path, run_id: str) -> Path:
    """The folder of an output of the run *run_id*, which need not exist: `${{name}}` in its name is the run's id; one
    that names no place gets Azure ML's, where no two runs meet. Raises BadUsage for a file, and for one that must not
    exist."""
    if item.local is not None:
        folder = Path(item.local.replace(RUN_NAME, run_id)).absolute()
    else:
        name = item.name or f"azureml/{RUN_NAME}/{item.key}"
        folder = datastore_folder(replace(item, name=name.replace(RUN_NAME, run_id)), default)
    if folder.is_file():
        raise BadUsage(f"Output '{item.key}': '{folder}' is a file.", hint="Name a folder.")
    if not item.overwrite and folder.exists():
        raise BadUsage(
            f"Output '{item.key}': '{folder}' exists, and overwrite=false was given.",
            hint="Choose another name, or leave overwrite=false out.",
        )
    return folder


def datastore_folder(item: DataSpec, default: Path) -> Path:
    """The folder NAME of the datastore named (where there is one here), else of the default one. Raises BadUsage for
    names that lead elsewhere."""
    if item.datastore and (item.datastore in (".", "..") or set(item.datastore) & set("/\\:")):
        hint = "Datastores here are the folders in '.himl/datastores'; give a path with local=PATH."
        raise BadUsage(f"'{item.datastore}' cannot be the name of a datastore.", hint=hint)
    if ".." in Path(item.name).parts or Path(item.name).is_absolute():
        hint = "Name a folder inside it, or give a path with local=PATH."
        raise BadUsage(f"'{item.name}' leaves the datastore.", hint=hint)
    named = default.parent / item.datastore if item.datastore else default
    return (named if named.is_dir() else default) / item.name


def job_environment(request: LaunchRequest, base: Mapping[str, str]) -> dict[str, str]:
    """The variables all ranks share: *base* (the user's, less those of a job that it may itself run in), the run's
    names, data folders."""
    spec, run_id = request.spec, Path(request.run_folder).name
    env = {name: value for name, value in base.items() if name not in RANK_NAMES and not name.startswith(OF_OTHER_JOBS)}
    folder = str(Path(spec.python).parent)
    if folder not in env.get("PATH", "").split(os.pathsep)[:1]:
        env["PATH"] = os.pathsep.join([folder, env["PATH"]]) if env.get("PATH") else folder
    return {
        **env,
        **{f"AZURE_ML_INPUT_{key}": path for key, path in request.inputs.items()},
        **{f"AZURE_ML_OUTPUT_{key}": path for key, path in request.outputs.items()},
        **{f"AZUREML_SWEEP_{name}": value for name, value in request.values.items()},
        "AZUREML_RUN_ID": run_id,
        "AZUREML_ROOT_RUN_ID": spec.parent or run_id,
        "AZUREML_ARM_PROJECT_NAME": spec.experiment,
        RUN_FOLDER: request.run_folder,
        "PYTHONUNBUFFERED": "1",  # a log that is followed must show lines as they are printed
    }


def rank_environments(request: LaunchRequest) -> list[dict[str, str]]:
    """The variables of each rank, by the rules of PyTorch's or MPI's launchers; none where no ranks were asked for."""
    count = request.spec.processes
    if count is None:
        return [{}]
    with socket.socket() as probe:  # a port that nobody uses at the moment
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    size = str(count)
    shared = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks: tuple[str, ...] = ("RANK", "LOCAL_RANK")
    if request.spec.distribution == "mpi":
        ranks = (*ranks, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
        shared |= dict.fromkeys(("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"), size)
    else:
        shared |= {"NODE_RANK": "0", "LOCAL_WORLD_SIZE": size}
    return [{**shared, **dict.fromkeys(ranks, str(number))} for number in range(count)]


def job_command(request: LaunchRequest) -> list[str]:
    """The program and its arguments, placeholders filled in. Raises BadUsage as `fill_command`."""
    entry, python = request.spec.entry, request.spec.python
    folders = {"inputs": request.inputs, "outputs": request.outputs}
    arguments = [
        PLACEHOLDER.sub(lambda found: folders[found[1]].get(found[2], found[0]), text)
        for text in request.spec.arguments
    ]
    if entry.kind is EntryKind.command:
        line = fill_command(entry.target, folders)
        if python:
            line = _PYTHON.sub(lambda _: shlex.quote(python), line)
        if (shell := find_shell()) is None:
            return [*shlex.split(line), *arguments]
        return [shell, "-c", " ".join([line, *map(shlex.quote, arguments)])]
    # A script's name must not be taken for an option of the interpreter
    target = f"./{entry.target}" if entry.target.startswith("-") else entry.target
    if entry.kind is EntryKind.module:
        return [python, "-m", target, *arguments]
    return [find_shell() or "bash" if entry.kind is EntryKind.shell else python, target, *arguments]


def check_shell(spec: JobSpec) -> None:
    """Raises NotFound where the job is a line that needs bash, and there is none: one that is more than words, some of
    them in quotes."""
    if spec.entry.kind is not EntryKind.command or find_shell() is not None:
        return
    line = spec.entry.target
    if "=" in line.split()[0] or _SPECIAL.search(re.sub(r"'[^']*'|\"[^\"$`\\]*\"", "", line)):
        raise NotFound(
            "The job is a command line for bash, which is not installed here.",
            hint="Install bash, or run it on a cluster: --cluster NAME",
        )


def find_shell() -> str | None:
    """The program that runs `.sh` scripts, as on Azure ML: bash; sh where there is none."""
    return shutil.which("bash") or (None if sys.platform == "win32" else shutil.which("sh"))


def fill_command(line: str, known: Mapping[str, Mapping[str, str]]) -> str:
    """The line for bash with `${{KIND.KEY}}` replaced by `known[KIND][KEY]`, which stays one word, outside of quotes
    and within; other placeholders stay.

    Raises BadUsage for a text that needs quotes behind a sign that makes it unclear which are open: a comment,
    backquotes, `$(`, `${`, `$'`, a here-document.
    """

    def fill(found: re.Match[str]) -> str:
        value = known.get(found[1], {}).get(found[2])
        if value is None:
            return found[0]
        if shlex.quote(value) == value:
            return value
        before = PLACEHOLDER.sub("x", line[: found.start()])
        if trouble := _UNQUOTABLE.search(before):
            raise BadUsage(
                f"'{found[0]}' stands behind '{trouble[0]}', where '{value}' cannot be quoted.",
                hint=f"Set a variable before it, and write that there: VALUE={found[0]}",
            )
        quoted = _QUOTED.match(before)
        open_quote = before[quoted.end() : quoted.end() + 1] if quoted else ""
        if open_quote == "'":
            return value.replace("'", "'\\''")
        return re.sub(r'([\\"$`])', r"\\\1", value) if open_quote == '"' else shlex.quote(value)

    return PLACEHOLDER.sub(fill, line)

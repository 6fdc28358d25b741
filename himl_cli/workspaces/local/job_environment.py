"""The command and the environment of a job on this machine: what a script would see on Azure ML, as far as it makes
sense."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import VARIABLE_PREFIX, EntryKind
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.workspaces.local.launch_request import LaunchRequest

RUN_FOLDER = "HIML_RUN_FOLDER"
"""The folder of the job's run: by it, what the script logs finds the workspace."""
DATA_NAMES = ("AZURE_ML_INPUT_", "AZURE_ML_OUTPUT_")
SWEEP_NAME = "AZUREML_SWEEP_"
RANK_NAMES = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}
_PYTHON = re.compile(r"^\s*python3?(?=\s)")
_SPECIAL = re.compile(r"[\\'\"`$&|;<>(){}*?\[\]~#!\n]")
_UNQUOTABLE = re.compile(r"[`#]|<<|\$['\"({]|\\\Z")
"""Behind one of these it takes a shell to tell which quotes are open."""
_QUOTED = re.compile(r"""(?:[^'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*""", re.DOTALL)


def job_environment(request: LaunchRequest, run_id: str, base: Mapping[str, str]) -> dict[str, str]:
    """The variables all ranks share: *base* (the user's, less those of a job that it may itself run in), the run's
    names, data folders."""
    spec, others = request.spec, (*DATA_NAMES, SWEEP_NAME, VARIABLE_PREFIX)
    env = {name: value for name, value in base.items() if name not in RANK_NAMES and not name.startswith(others)}
    folder = str(Path(spec.python).parent)
    if folder not in env.get("PATH", "").split(os.pathsep)[:1]:
        env["PATH"] = os.pathsep.join([folder, env["PATH"]]) if env.get("PATH") else folder
    env |= {f"AZURE_ML_INPUT_{key}": path for key, path in request.inputs.items()}
    env |= {f"AZURE_ML_OUTPUT_{key}": path for key, path in request.outputs.items()}
    env |= {f"{SWEEP_NAME}{name}": value for name, value in request.values.items()}
    return env | {
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
    found = []
    for rank, size in ((str(number), str(count)) for number in range(count)):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if request.spec.distribution == "mpi":
            names |= dict.fromkeys(("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"), rank)
            names |= dict.fromkeys(("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"), size)
        else:
            names |= {"NODE_RANK": "0", "LOCAL_WORLD_SIZE": size}
        found.append(names)
    return found


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


def needs_shell(line: str) -> bool:
    """Whether a command line is more than words, some of them in quotes: what only a shell makes sense of."""
    return _SPECIAL.search(re.sub(r"'[^']*'|\"[^\"$`\\]*\"", "", line)) is not None or "=" in line.split()[0]


def find_shell() -> str | None:
    """The program that runs `.sh` scripts, as on Azure ML: bash; sh where there is none."""
    return shutil.which("bash") or (None if sys.platform == "win32" else shutil.which("sh"))


def fill_command(line: str, known: Mapping[str, Mapping[str, str]]) -> str:
    """The line for bash with `${{KIND.KEY}}` replaced by `known[KIND][KEY]`, which stays one word, outside of quotes
    and within; other placeholders stay.

    Raises BadUsage for a text that needs quotes behind a sign that makes it unclear which are open: a comment,
    backquotes, `$(`, `${`, `$'`, a here-document.
    """
    filled, done = "", 0
    for found in PLACEHOLDER.finditer(line):
        value = known.get(found[1], {}).get(found[2])
        before = PLACEHOLDER.sub("x", line[: found.start()])
        filled += line[done : found.start()]
        done = found.end()
        if value is None:
            filled += found[0]
        elif shlex.quote(value) == value:
            filled += value
        elif trouble := _UNQUOTABLE.search(before):
            raise BadUsage(
                f"'{found[0]}' stands behind '{trouble[0]}', where '{value}' cannot be quoted.",
                hint=f"Set a variable before it, and write that there: VALUE={found[0]}",
            )
        else:
            quoted = _QUOTED.match(before)
            open_quote = before[quoted.end() : quoted.end() + 1] if quoted else ""
            if open_quote == "'":
                filled += value.replace("'", "'\\''")
            elif open_quote == '"':
                filled += re.sub(r'([\\"$`])', r"\\\1", value)
            else:
                filled += shlex.quote(value)
    return filled + line[done:]

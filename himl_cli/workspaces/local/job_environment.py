"""The environment of a job here: what a script would see on Azure ML, as far as it makes sense on one machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from himl_cli.core.jobs import VARIABLE_PREFIX, EntryKind
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.workspaces.local.command_line import fill_command
from himl_cli.workspaces.local.order import Order

RUN_FOLDER = "HIML_RUN_FOLDER"
"""Where the job's run is kept: by it, what the script logs finds the workspace."""
_PYTHON = re.compile(r"^\s*python3?(?=\s)")
_SPECIAL = re.compile(r"[\\'\"`$&|;<>(){}*?\[\]~#!\n]")
DATA_NAMES = ("AZURE_ML_INPUT_", "AZURE_ML_OUTPUT_")
SWEEP_NAME = "AZUREML_SWEEP_"
RANK_NAMES = {
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
}


def job_environment(order: Order, run_id: str, base: Mapping[str, str]) -> dict[str, str]:
    """The variables all ranks share: *base* (the user's, less those of a job that it may itself run in), the run's
    names, data folders."""
    env = {
        name: value
        for name, value in base.items()
        if name not in RANK_NAMES and not name.startswith((*DATA_NAMES, SWEEP_NAME, VARIABLE_PREFIX))
    }
    folder = str(Path(order.spec.python).parent)
    if folder not in env.get("PATH", "").split(os.pathsep)[:1]:
        env["PATH"] = os.pathsep.join([folder, env["PATH"]]) if env.get("PATH") else folder
    env |= {
        "AZUREML_RUN_ID": run_id,
        "AZUREML_ROOT_RUN_ID": order.spec.parent or run_id,
        "AZUREML_ARM_PROJECT_NAME": order.spec.experiment,
    }
    env[RUN_FOLDER] = order.run_folder
    env["PYTHONUNBUFFERED"] = "1"  # a log that is followed must show lines as they are printed
    env |= {f"AZURE_ML_INPUT_{key}": path for key, path in order.inputs.items()}
    env |= {f"AZURE_ML_OUTPUT_{key}": path for key, path in order.outputs.items()}
    env |= {f"{SWEEP_NAME}{name}": value for name, value in order.values.items()}
    return env


def rank_environment(order: Order, number: int, port: int) -> dict[str, str]:
    """The variables of one rank, by the rules of PyTorch's or MPI's launchers; none where no ranks were asked for."""
    count = order.spec.processes
    if count is None:
        return {}
    rank, size = str(number), str(count)
    if order.spec.distribution == "mpi":
        names = {
            "OMPI_COMM_WORLD_RANK": rank,
            "OMPI_COMM_WORLD_LOCAL_RANK": rank,
            "OMPI_COMM_WORLD_SIZE": size,
            "OMPI_COMM_WORLD_LOCAL_SIZE": size,
        }
    else:
        names = {"NODE_RANK": "0", "LOCAL_WORLD_SIZE": size}
    return {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **names,
    }


def free_port() -> int:
    """A loopback port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def job_command(order: Order) -> list[str]:
    """The program and its arguments, placeholders filled in."""
    target = order.spec.entry.target
    if target.startswith("-"):  # a script's name must not be taken for an option of the interpreter
        target = f"./{target}"
    entry, arguments = order.spec.entry, [fill_placeholders(text, order) for text in order.spec.arguments]
    if entry.kind is EntryKind.command:
        line = fill_command(entry.target, {"inputs": order.inputs, "outputs": order.outputs})
        if order.spec.python:
            line = _PYTHON.sub(lambda _: shlex.quote(order.spec.python), line)
        shell = find_shell()
        return (
            [*shlex.split(line), *arguments]
            if shell is None
            else [shell, "-c", " ".join([line, *map(shlex.quote, arguments)])]
        )
    if entry.kind is EntryKind.module:
        return [order.spec.python, "-m", target, *arguments]
    if entry.kind is EntryKind.shell:
        return [find_shell() or "bash", target, *arguments]
    return [order.spec.python, target, *arguments]


def needs_shell(line: str) -> bool:
    """Whether a command line is more than words, some of them in quotes: what only a shell makes sense of."""
    return _SPECIAL.search(re.sub(r"'[^']*'|\"[^\"$`\\]*\"", "", line)) is not None or "=" in line.split()[0]


def find_shell() -> str | None:
    """The program that runs `.sh` scripts, as on Azure ML: bash; sh where there is none."""
    return shutil.which("bash") or (None if sys.platform == "win32" else shutil.which("sh"))


def fill_placeholders(text: str, order: Order) -> str:
    """Replace `${{inputs.KEY}}` and `${{outputs.KEY}}` by the folders of those keys."""
    folders = {"inputs": order.inputs, "outputs": order.outputs}
    return PLACEHOLDER.sub(lambda found: folders[found[1]].get(found[2], found[0]), text)

"""Which rank this process is on its node, which launch it belongs to, and since when."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from himl_cli.services.transfer.processes import LOADED, Process, find_process, this_process, variables_of

RANKS = {
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALRANKID": "MPI_LOCALNRANKS",
    "SLURM_LOCALID": "",
}
"""Variables that hold a process's rank on its node, the first that is set counts; beside each, the one with their
number."""

RANKS_OF_ALL = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
"""Variables that hold a process's rank among those of all nodes, the first that is set counts."""

LAUNCH_VARIABLES = (
    "AZUREML_RUN_ID",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_RESTART_COUNT",
)
"""What all ranks of one launch have alike. None is unique by itself everywhere, so all of them and the launcher count
together; a shell that starts ranks twice has them alike in both launches."""

LONGEST_VARIABLE = 27_000
"""Characters of a variable that says something to other ranks: Windows allows 32,767."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class LocalRank:
    """This process among those that one launcher started on this node; `launch` is the same for all of them.

    `variable` is the one that told the rank, `count` how many ranks the node has (0 where nobody says). `line` are this
    process and those above it that are ranks, and `launcher` the one above these; `first` is the uppermost that is this
    rank: the script that the launcher started, where that in turn started this process. Nothing of these is known where
    the system does not tell, and no launcher where each rank has a container to itself.
    """

    rank: int
    launch: str
    variable: str = ""
    count: int = 0
    line: tuple[Process, ...] = ()
    first: Process | None = None
    launcher: Process | None = None

    @property
    def began(self) -> float:
        """The moment (of `processes.now`) at which this rank had been started at the latest."""
        return LOADED if self.first is None else self.first.began


def local_rank(environment: Mapping[str, str]) -> LocalRank | None:
    """The rank that the launcher's variables tell; None outside a launch, and for a process that is alone on its
    node."""
    for variable, size in RANKS.items():
        value, count = environment.get(variable, ""), environment.get(size, "")
        if value.isdecimal():
            rank = int(value)
            if rank == 0 and count == "1":
                return None
            line, launcher = _line()
            mine = [this for number, this in enumerate(line) if number == 0 or rank_of(this) == rank]
            launch = _launch_id(environment, launcher)
            return LocalRank(
                rank,
                launch,
                variable,
                int(count) if count.isdecimal() else 0,
                line,
                mine[-1] if mine else None,
                launcher,
            )
    return None


def rank_of_all(environment: Mapping[str, str]) -> int:
    """This process's rank among those of all nodes, as far as the launcher tells; 0 outside a launch."""
    for variable in RANKS_OF_ALL:
        value = environment.get(variable, "")
        if value.isdecimal():
            return int(value)
    me = local_rank(environment)
    return me.rank if me is not None else 0


def rank_of(process: Process) -> int | None:
    """The local rank that *process* was started as, by any launcher: scripts hand their rank on under another one's
    name.

    None for one that is no rank; one that may not be looked at belongs to somebody else, so it is none. -1 where a
    variable is there without a number.
    """
    variables = variables_of(process)
    known = [variables[name] for name in RANKS if name in variables]
    return next((int(value) for value in known if value.isdecimal()), -1 if known else None)


def _line() -> tuple[tuple[Process, ...], Process | None]:
    """This process and those above it that are ranks, from here upwards, and the nearest above them that is none."""
    me = this_process()
    if me is None:
        return (), None
    line, above = [me], find_process(me.parent)
    while above is not None and rank_of(above) is not None:
        line.append(above)
        above = find_process(above.parent)
    return tuple(line), above


def _launch_id(environment: Mapping[str, str], launcher: Process | None) -> str:
    known = [f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment]
    text = "\n".join([_node(), f"{launcher.pid}@{launcher.ticks}" if launcher else "", *known])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _node() -> str:
    """This machine since it started: containers on it share the boot id, not the host name."""
    try:
        return BOOT_ID.read_text()
    except OSError:
        return platform.node()

"""Which rank this process is on its node, and which launch it belongs to."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RANKS = {
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALRANKID": "MPI_LOCALNRANKS",
    "SLURM_LOCALID": "",
}
"""Variables that hold a process's rank on its node, the first that is set counts; beside each, the one with their number."""

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
"""What all ranks of one launch have alike. None is unique by itself everywhere, so all of them and the launcher count together."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class LocalRank:
    """This process among those that one launcher started on this node; `launch` is the same for all of them and for no other launch.

    `variable` is the one that told the rank.
    """

    rank: int
    launch: str
    variable: str = ""


def local_rank(environment: Mapping[str, str]) -> LocalRank | None:
    """The rank that the launcher's variables tell; None outside a launch, and for a process that is alone on its node."""
    for variable, count in RANKS.items():
        value = environment.get(variable, "")
        if value.isdecimal():
            is_alone = int(value) == 0 and environment.get(count, "") == "1"
            return None if is_alone else LocalRank(int(value), _launch_id(environment), variable)
    return None


def rank_of_all(environment: Mapping[str, str]) -> int:
    """This process's rank among those of all nodes, as far as the launcher tells; 0 outside a launch."""
    for variable in RANKS_OF_ALL:
        value = environment.get(variable, "")
        if value.isdecimal():
            return int(value)
    me = local_rank(environment)
    return me.rank if me is not None else 0


def _launch_id(environment: Mapping[str, str]) -> str:
    known = [f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment]
    text = "\n".join([_node(), _launcher(), *known])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _node() -> str:
    """This machine since it started: containers on it share the boot id, not the host name."""
    try:
        return BOOT_ID.read_text()
    except OSError:
        return platform.node()


def _launcher() -> str:
    """The nearest process above this one that has no rank: pid and start time (a pid alone is used again).

    Empty where the system does not tell, or where each rank has a container to itself.
    """
    if not sys.platform.startswith("linux"):
        return ""
    pid = _parent_of("self")
    while pid:
        if not _has_rank(pid):
            return f"{pid}@{_status(str(pid))[19:20]}"
        pid = _parent_of(str(pid))
    return ""


def _parent_of(pid: str) -> int:
    status = _status(pid)
    return int(status[1]) if status else 0


def _has_rank(pid: int) -> bool:
    """Whether the process was started as a rank, by any launcher: scripts hand its rank on under another one's name.

    A process that may not be looked at belongs to somebody else, so it is none.
    """
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(entry.partition(b"=")[0].decode(errors="replace") in RANKS for entry in entries)


def _status(pid: str) -> list[str]:
    """The fields of /proc/PID/stat after the name in parentheses: state, parent, …, start time as the twentieth."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []

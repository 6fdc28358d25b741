"""The rank of this process among those that a launcher started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from himl_cli.core.processes import PROC, boot_id, find_process, machine_time

# Environment variables with a process's rank on its node, by precedence, each with the variable for the number of ranks
RANKS = {
    "LOCAL_RANK": "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALRANKID": "MPI_LOCALNRANKS",
    "SLURM_LOCALID": "",
}
# Environment variables with a process's rank among those of all nodes, by precedence
RANKS_OF_ALL = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
# All variables by which launchers describe a rank. Jobs that start in a rank do not get them
RANK_NAMES = {
    *(*RANKS, *filter(None, RANKS.values()), *RANKS_OF_ALL),
    *("WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOBAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    *("OMPI_COMM_WORLD_NODE_RANK", "PMI_SIZE", "PMIX_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_SIZE"),
    *("SLURM_NODEID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE"),
}
# Environment variables that are equal for all ranks of one launch. None is unique everywhere, so all of them and the
# launcher's process count together. They are equal for two launches of one shell.
LAUNCH_VARIABLES = (
    *("AZUREML_RUN_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"),
    *("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"),
)
LOADED = machine_time()


class LocalRank(NamedTuple):
    """This process among the ranks of one launch on this node. `launcher`, with its node, and `variables` are the same
    for all of them, and differ for others unless a launcher starts ranks twice.

    `variable` is the one with the rank. `began` is the latest possible `machine_time` of the rank's start, `process`
    the rank's first process, `ancestors` this process and its ancestors that are ranks: processes by pid and start,
    unknown without /proc.
    """

    rank: int
    variable: str
    launcher: str
    variables: tuple[str, ...]
    began: float
    process: str
    ancestors: frozenset[str]


def local_rank(environment: Mapping[str, str]) -> LocalRank | None:
    """The rank in the launcher's variables. None outside a launch, and for the only process on its node."""
    variable = next((name for name in RANKS if environment.get(name, "").isdecimal()), "")
    if not variable or (int(environment[variable]) == 0 and environment.get(RANKS[variable], "") == "1"):
        return None
    rank, found = int(environment[variable]), find_process("self")
    ancestors: set[str] = set()
    process, began = "", LOADED
    while found is not None and (not ancestors or _rank_of(found[0]) is not None):
        if not ancestors or _rank_of(found[0]) == rank:
            process, _, began, _ = found
        ancestors.add(found[0])
        found = find_process(found[1])
    machine = boot_id()
    if not machine:
        import platform  # imported late, since it delays every job's start by a millisecond

        machine = platform.node()
    launcher = f"{machine} {found[0] if found is not None else ''}"
    variables = tuple(f"{name}={environment[name]}" for name in LAUNCH_VARIABLES if name in environment)
    return LocalRank(rank, variable, launcher, variables, began, process, frozenset(ancestors))


def rank_of_all(environment: Mapping[str, str]) -> int:
    """This process's rank among those of all nodes, if the launcher sets it. 0 outside a launch."""
    found = next((value for name in RANKS_OF_ALL if (value := environment.get(name, "")).isdecimal()), None)
    me = local_rank(environment) if found is None else None
    return me.rank if me is not None else int(found or 0)


def _rank_of(process: str) -> int | None:
    """The local rank that *process* was started with, by any launcher, since scripts pass their rank on under another
    name. None for a process that is not a rank or belongs to another user, -1 if a variable has no number."""
    try:
        entries = (PROC / process.partition("@")[0] / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    variables = dict(entry.decode(errors="surrogateescape").partition("=")[::2] for entry in entries)
    known = [variables[name] for name in RANKS if name in variables]
    return next((int(value) for value in known if value.isdecimal()), -1 if known else None)

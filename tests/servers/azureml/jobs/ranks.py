"""The processes of a job: how many, on which node, and what each of them is told of itself."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.servers.azureml.state import Json

HERE = "127.0.0.1"
PYTORCH, MPI, TENSORFLOW = "PyTorch", "Mpi", "TensorFlow"


@dataclass(frozen=True)
class Rank:
    """One process: `index` among all `world` processes, `local` among those of its `node`."""

    index: int
    local: int
    node: int
    world: int
    log: str
    variables: Mapping[str, str]


def ranks_of(job: Json, digits: int = 1) -> Sequence[Rank]:
    """The processes that *job* (the `properties` of PUT job) asks for; one for each node where it names no distribution.

    Their numbers have at least so many *digits* in the names of logs.
    """
    nodes = int((job.get("resources") or {}).get("instanceCount") or 1)
    distribution = job.get("distribution") or {}
    kind, each = distribution.get("distributionType"), int(distribution.get("processCountPerInstance") or 1)
    if kind == TENSORFLOW:
        return _of_tensorflow(int(distribution.get("workerCount") or 1), int(distribution.get("parameterServerCount") or 0), nodes)
    world = nodes * each
    port = _free_port()
    ranks = []
    for index in range(world):
        node, local = divmod(index, each)
        log = f"user_logs/std_log_process_{index:0{max(digits, len(str(world - 1)))}}.txt" if kind or world > 1 else "user_logs/std_log.txt"
        variables = {"AZUREML_CR_NODE_RANK": str(node), **_of_nodes(nodes, port)}
        if kind == PYTORCH:
            variables |= _of_pytorch(index, local, node, world, port)
        elif kind == MPI:
            variables |= _of_mpi(index, local, world, each)
        ranks.append(Rank(index, local, node, world, log, variables))
    return ranks


def launcher_log(job: Json) -> str:
    """The log of MPI itself, beside those of the ranks; empty for other jobs."""
    return "user_logs/mpi_log.txt" if (job.get("distribution") or {}).get("distributionType") == MPI else ""


def _of_nodes(nodes: int, port: int) -> dict[str, str]:
    """What all processes are told of the nodes."""
    shared = {"AZ_BATCHAI_MPI_MASTER_NODE": HERE if nodes > 1 else "localhost", "AZ_BATCHAI_JOB_MASTER_NODE_IP": HERE}
    return shared | ({"AZ_BATCH_MASTER_NODE": f"{HERE}:{port}", "AZ_BATCH_HOST_LIST": ",".join([HERE] * nodes)} if nodes > 1 else {})


def _of_pytorch(index: int, local: int, node: int, world: int, port: int) -> dict[str, str]:
    numbers = {"RANK": index, "LOCAL_RANK": local, "NODE_RANK": node, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": HERE, **{name: str(number) for name, number in numbers.items()}}


def _of_mpi(index: int, local: int, world: int, each: int) -> dict[str, str]:
    numbers = {"RANK": index, "LOCAL_RANK": local, "SIZE": world, "LOCAL_SIZE": each}
    return {f"OMPI_COMM_WORLD_{name}": str(number) for name, number in numbers.items()}


def _of_tensorflow(workers: int, servers: int, nodes: int) -> Sequence[Rank]:
    """Workers and parameter servers, a process each, with the cluster in `TF_CONFIG`; the numbers in the names of logs count each kind by itself."""
    roles = [("worker", index) for index in range(workers)] + [("ps", index) for index in range(servers)]
    cluster: dict[str, list[str]] = {}
    for role, _ in roles:
        cluster.setdefault(role, []).append(f"{HERE}:{_free_port()}")
    ranks = []
    for index, (role, number) in enumerate(roles):
        told = json.dumps({"cluster": cluster, "task": {"type": role, "index": number}, "environment": "cloud"})
        log = f"user_logs/std_log_node_{number:02d}_{role}.txt"
        ranks.append(Rank(index, index // nodes, index % nodes, len(roles), log, {"AZUREML_CR_NODE_RANK": str(index % nodes), "TF_CONFIG": told}))
    return ranks


def _free_port() -> int:
    """For the ranks to meet at: all nodes are this machine, so the one that the service always gives may be taken."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        port: int = probe.getsockname()[1]
        return port

"""As how many processes a job runs, and who starts them."""

from __future__ import annotations

from himl_cli.services.submission.request import SubmitRequest


def ranks_of(request: SubmitRequest) -> tuple[str, int | None]:
    """The distribution (`pytorch`, `mpi`, or empty for a plain process) and the processes a node (None: no ranks).

    Here PyTorch's variables are set whenever ranks are asked for. On a cluster, unless `--distribution` says so:
    PyTorch for several processes whose number a node is given, MPI for several nodes without it, and for one process,
    as hi-ml does.
    """
    processes = request.processes_per_node
    if not request.on_cluster:
        return request.distribution or "pytorch", processes
    chosen = request.distribution or _usual(request.num_nodes, processes, mpi_for_one=not request.no_mpi_single_node)
    return chosen, (processes or 1) if chosen else None


def _usual(nodes: int, processes: int | None, *, mpi_for_one: bool) -> str:
    if nodes * (processes or 1) == 1:
        return "mpi" if mpi_for_one else ""
    return "mpi" if processes is None else "pytorch"

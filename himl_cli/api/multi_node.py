"""The variables that PyTorch Lightning needs on several nodes, from those that Azure ML sets."""

from __future__ import annotations

import os

from himl_cli.api.submitting.words import WrongArgument

DEFAULT_PORT = "6105"


def set_environment_variables_for_multi_node() -> None:
    """Set MASTER_ADDR, MASTER_PORT and NODE_RANK in this process from what Azure ML tells of the nodes of an MPI job.

    By hi-ml's rule: AZ_BATCH_MASTER_NODE (host:port), else AZ_BATCHAI_MPI_MASTER_NODE unless that is localhost, else
    MASTER_IP; none of them means a single node, and nothing is set. The port is 6105 unless one is known; NODE_RANK is
    the MPI rank. Raises WrongArgument (also a ValueError) where AZ_BATCH_MASTER_NODE is neither a host nor host:port.
    """
    address, port = _master()
    if not address:
        return
    os.environ["MASTER_ADDR"] = address
    if port:
        os.environ["MASTER_PORT"] = port
    os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
    rank = os.environ.get("OMPI_COMM_WORLD_RANK")
    if rank is not None:
        os.environ["NODE_RANK"] = rank


def _master() -> tuple[str, str]:
    """Host and port of the first node; empty where they are not known."""
    node = os.environ.get("AZ_BATCH_MASTER_NODE", "")
    if node:
        host, _, port = node.partition(":")
        if not host or ":" in port:
            raise WrongArgument(f"AZ_BATCH_MASTER_NODE is '{node}', which is neither a host nor host:port.")
        return host, port
    node = os.environ.get("AZ_BATCHAI_MPI_MASTER_NODE", "")
    return ("" if node == "localhost" else node) or os.environ.get("MASTER_IP", ""), ""

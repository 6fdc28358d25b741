"""Ranks of a distributed script: which of them acts, and where all of them wait."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from himl_cli.api.exceptions import WrongArgument
from himl_cli.core.blobs import TransferResult
from himl_cli.core.events import Notify, ignore
from himl_cli.core.ranks import RANKS, local_rank
from himl_cli.services.transfer.ranks import rank_zero_only, rank_zero_then_barrier

DONE_VARIABLE = "HIML_DONE_BEFORE_RANKS"
ELASTIC = "TORCHELASTIC_RUN_ID"
# Characters of an environment variable for other ranks. Windows allows 32,767.
LONGEST_VARIABLE = 27_000

_calls: Counter[str] = Counter()


def is_local_rank_zero() -> bool:
    """Whether this process is the one of its node that downloads.

    That is the process for which the launcher set LOCAL_RANK (or a similar variable) to 0. Without such a variable, it
    is one without RANK, as in hi-ml: PyTorch Lightning starts the other ranks from there. RANK alone is not a rank on
    the node, so only RANK 0 counts.
    """
    me = local_rank(os.environ)
    if me is not None:
        return me.rank == 0
    is_told = any(os.environ.get(name, "").isdecimal() for name in RANKS)
    return is_told or os.environ.get("RANK", "0") == "0"


def torch_barrier() -> None:
    """Wait for all processes of a distributed PyTorch job. Returns immediately if torch.distributed is not initialized.

    It does not import PyTorch: a script that has initialized it has imported it.
    """
    distributed = _set_up_distributed()
    if distributed is not None:
        distributed.barrier()


def once_per_node(
    folder: Path, key: str, act: Callable[[], TransferResult], *, notify: Notify = ignore
) -> TransferResult:
    """Call *act* in local rank 0 only, and return its result in all ranks of the node.

    The ranks wait at torch.distributed's barrier, over all nodes, if it is initialized, or else with files in himl's
    cache. If a script called this before it started its other ranks (PyTorch Lightning), those ranks do not wait. They
    inherit an environment variable that lists the completed calls.
    """
    distributed = _set_up_distributed()
    if distributed is not None:
        return rank_zero_then_barrier(folder, key, act, distributed.barrier, notify=notify)
    me = local_rank(os.environ)
    text = f"{os.path.realpath(folder)}\n{key}"
    mark = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    # Except with torchrun, rank 0 may have started this rank, and may have made the same call as often before.
    if me is not None and me.rank > 0 and ELASTIC not in os.environ:
        _calls[mark] += 1
        if os.environ.get(DONE_VARIABLE, "").split().count(mark) >= _calls[mark]:
            return TransferResult()
    result = act() if me is None else rank_zero_only(folder, key, act, notify=notify)
    done = f"{os.environ.get(DONE_VARIABLE, '')} {mark}".strip()
    if (me is None or me.rank == 0) and len(done) <= LONGEST_VARIABLE:
        os.environ[DONE_VARIABLE] = done  # for ranks that this process starts later
    return result


def _set_up_distributed() -> Any:
    """torch.distributed if the script has initialized it, else None."""
    distributed = sys.modules.get("torch.distributed")
    return (
        distributed if distributed is not None and distributed.is_available() and distributed.is_initialized() else None
    )


def set_environment_variables_for_multi_node() -> None:
    """Set MASTER_ADDR, MASTER_PORT and NODE_RANK in this process from Azure ML's variables for MPI jobs.

    As in hi-ml, the address is AZ_BATCH_MASTER_NODE (host:port), or else AZ_BATCHAI_MPI_MASTER_NODE unless that is
    localhost, or else MASTER_IP. Without any of them, there is a single node, and the function sets nothing. The
    default port is 6105. NODE_RANK is the MPI rank. Raises WrongArgument (also a ValueError) if AZ_BATCH_MASTER_NODE is
    neither a host nor host:port.
    """
    node, port = os.environ.get("AZ_BATCH_MASTER_NODE", ""), ""
    if node:
        address, _, port = node.partition(":")
        if not address or ":" in port:
            raise WrongArgument(f"AZ_BATCH_MASTER_NODE must be a host or host:port, not '{node}'.")
    else:
        node = os.environ.get("AZ_BATCHAI_MPI_MASTER_NODE", "")
        address = ("" if node == "localhost" else node) or os.environ.get("MASTER_IP", "")
    if not address:
        return
    os.environ["MASTER_ADDR"] = address
    if port:
        os.environ["MASTER_PORT"] = port
    os.environ.setdefault("MASTER_PORT", "6105")
    rank = os.environ.get("OMPI_COMM_WORLD_RANK")
    if rank is not None:
        os.environ["NODE_RANK"] = rank

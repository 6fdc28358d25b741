"""Ranks of a distributed script: which of them acts, and where all of them meet."""

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
from himl_cli.core.processes import RANKS, local_rank
from himl_cli.services.transfer.ranks import rank_zero_only, rank_zero_then_barrier

DONE_VARIABLE = "HIML_DONE_BEFORE_RANKS"
ELASTIC = "TORCHELASTIC_RUN_ID"
LONGEST_VARIABLE = 27_000  # characters of a variable for other ranks: Windows allows 32,767

_calls: Counter[str] = Counter()


def is_local_rank_zero() -> bool:
    """Whether this process is the one of its node that downloads.

    That is the process whose launcher says so (LOCAL_RANK and its kin are 0); without such a variable, as hi-ml has it,
    one without RANK: PyTorch Lightning starts the other ranks from there. RANK alone is not a rank on the node; only 0
    is taken for one.
    """
    me = local_rank(os.environ)
    if me is not None:
        return me.rank == 0
    is_told = any(os.environ.get(name, "").isdecimal() for name in RANKS)
    return is_told or os.environ.get("RANK", "0") == "0"


def torch_barrier() -> None:
    """Wait until all processes of the distributed PyTorch job are here; returns at once where torch.distributed is not
    set up.

    PyTorch is not imported: a script that has set it up has imported it.
    """
    distributed = _set_up_distributed()
    if distributed is not None:
        distributed.barrier()


def once_per_node(
    folder: Path, key: str, act: Callable[[], TransferResult], *, notify: Notify = ignore
) -> TransferResult:
    """What *act* gives, done by local rank 0 alone; the other ranks of the node wait for it and share its outcome.

    They meet at torch.distributed's barrier, over all nodes, where that is set up, and else by files in himl's cache. A
    script that starts its other ranks itself (PyTorch Lightning) and called this before is not waited for: the ranks it
    starts inherit word of what is done.
    """
    distributed = _set_up_distributed()
    if distributed is not None:
        return rank_zero_then_barrier(folder, key, act, distributed.barrier, notify=notify)
    me = local_rank(os.environ)
    text = f"{os.path.realpath(folder)}\n{key}"
    mark = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    if me is not None and me.rank > 0 and ELASTIC not in os.environ:  # torchrun's rank 0 has started no other rank
        _calls[mark] += 1  # whoever started this rank may have made this call as often before
        if os.environ.get(DONE_VARIABLE, "").split().count(mark) >= _calls[mark]:
            return TransferResult()
    result = act() if me is None else rank_zero_only(folder, key, act, notify=notify)
    done = f"{os.environ.get(DONE_VARIABLE, '')} {mark}".strip()
    if (me is None or me.rank == 0) and len(done) <= LONGEST_VARIABLE:
        os.environ[DONE_VARIABLE] = done  # for the processes that this one may yet start
    return result


def _set_up_distributed() -> Any:
    """torch.distributed where the script has initialised it, else None."""
    distributed = sys.modules.get("torch.distributed")
    return (
        distributed if distributed is not None and distributed.is_available() and distributed.is_initialized() else None
    )


def set_environment_variables_for_multi_node() -> None:
    """Set MASTER_ADDR, MASTER_PORT and NODE_RANK in this process from what Azure ML tells of the nodes of an MPI job.

    By hi-ml's rule: AZ_BATCH_MASTER_NODE (host:port), else AZ_BATCHAI_MPI_MASTER_NODE unless that is localhost, else
    MASTER_IP; none of them means a single node, and nothing is set. The port is 6105 unless one is known; NODE_RANK is
    the MPI rank. Raises WrongArgument (also a ValueError) where AZ_BATCH_MASTER_NODE is neither a host nor host:port.
    """
    node, port = os.environ.get("AZ_BATCH_MASTER_NODE", ""), ""
    if node:
        address, _, port = node.partition(":")
        if not address or ":" in port:
            raise WrongArgument(f"AZ_BATCH_MASTER_NODE is '{node}', which is neither a host nor host:port.")
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

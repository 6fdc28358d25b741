"""List a container and plan its download, to the end but without a transfer: `python -m stress.load.planning URL FOLDER`.

Prints `{"wanted": …, "bytes": …, "first": …, "last": …, "in_order": …}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from himl_cli.core.events import ignore
from himl_cli.services.transfer.plan import DownloadPlan, DownloadRequest, TargetFolder, TransferStats
from himl_cli.services.transfer.state import TransferState
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.signing import SasSigner


def main(url: str, folder: Path) -> None:
    store = AzureBlobs(url, SasSigner("sig=x"))
    request = DownloadRequest(folder)
    wanted, size, in_order, first, last = 0, 0, True, "", ""
    target = TargetFolder(folder)
    with TransferState(folder, lambda text: print(text, file=sys.stderr)) as state:
        for one in DownloadPlan(store, request, target, state, TransferStats()).files(request.filters.select(store), ignore):
            in_order = in_order and last < one.blob.name
            first, last = first or one.blob.name, one.blob.name
            wanted, size = wanted + 1, size + one.blob.size
    print(json.dumps({"wanted": wanted, "bytes": size, "first": first, "last": last, "in_order": in_order}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""himl's transfer engine on a container, without the command around it. Prints what it spent once imported.

`python -m benchmarks.blobs.engine down|up URL SAS PART FOLDER`; URL is the container's.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pycurl  # noqa: F401  (loaded before the clock starts, as the other client's libraries are)

from himl_cli.core.errors import HimlError
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.signing import SasSigner


def main() -> None:
    direction, url, sas, part, folder = sys.argv[1:]
    store = AzureBlobs(url, SasSigner(sas))
    start, cpu = time.perf_counter(), time.process_time()
    if direction == "down":
        result = download(store, DownloadRequest(Path(folder), Filters(prefix=f"{part}/")))
    else:
        result = upload(store, UploadRequest(Path(folder) / part, part))
    wall, processors = time.perf_counter() - start, time.process_time() - cpu
    problem: HimlError | None = result.problem()
    if problem is not None or result.unverified:
        sys.exit(f"{problem} {result.unverified} unverified")
    print(json.dumps({"wall": wall, "cpu": processors}))


if __name__ == "__main__":
    main()

"""What no checked download can beat: the MD5 of the same bytes on one thread. Prints what that took. `python -m benchmarks.blobs.floor FOLDER`"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from himl_cli.services.transfer.local_files import md5_of


def main() -> None:
    start, cpu = time.perf_counter(), time.process_time()
    for path in Path(sys.argv[1]).iterdir():
        md5_of(path)
    print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()

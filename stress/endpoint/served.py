"""A tracked job in a process of its own: `python -m stress.endpoint.served FOLDER`.

It says `{"port": …, "token": …}` on stdout and serves until its stdin ends.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from tests.workspaces.tracking.tracked_job import tracked_job


def main(folder: Path) -> None:
    logging.basicConfig(level=logging.DEBUG)
    with tracked_job(folder) as job:
        print(json.dumps({"port": job.server.port, "token": job.secret}), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Stream a running job of the lab with azure-ai-ml until it ends; print what it showed, as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys

from azure_ai_ml_read import opened  # type: ignore[import-not-found]

RUNNING = "quiet_pine_running"


def main() -> None:
    streamed = io.StringIO()
    with contextlib.redirect_stdout(streamed):
        opened().jobs.stream(RUNNING)
    sys.stdout.write(json.dumps(streamed.getvalue()) + "\n")


if __name__ == "__main__":
    main()

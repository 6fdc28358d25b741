"""Submit a job with the code in a folder to the lab with azure-ai-ml; print the id that its code has, as JSON. Argument: the folder for files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from azure.ai.ml import command
from azure_ai_ml_read import opened  # type: ignore[import-not-found]


def main() -> None:
    code = Path(sys.argv[1]).parent / "code"
    job = command(command="python train.py", code=str(code), environment="torch:1", compute="cpu-cluster", experiment_name="sent")
    sent = opened().jobs.create_or_update(job)
    sys.stdout.write(json.dumps({"code": sent.code}) + "\n")


if __name__ == "__main__":
    main()

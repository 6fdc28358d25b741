"""Submit a job with code and an environment of its own to the lab with azure-ai-ml; print what it says, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from azure.ai.ml import command
from azure.ai.ml.entities import Environment
from azure_ai_ml_read import opened  # type: ignore[import-not-found]


def main() -> None:
    code = Path(sys.argv[1]) / "code"
    code.mkdir(parents=True)
    (code / "train.py").write_text("print(1)\n", encoding="utf-8")
    client = opened()
    environment = Environment(name="torch", version="1", image="docker.io/python:3.11")
    job = command(command="python train.py", code=str(code), environment=environment, compute="cpu-cluster", experiment_name="sent", tags={"from": "sdk"})
    sent = client.jobs.create_or_update(job)
    again = client.jobs.create_or_update(job)
    found = {
        "id": sent.name,
        "again": again.name,
        "status": sent.status,
        "same_code": sent.code == again.code,
        "environments": [one.name for one in client.environments.list()],
        "computes": sorted(one.name for one in client.compute.list()),
        "data": [one.name for one in client.data.list()],
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

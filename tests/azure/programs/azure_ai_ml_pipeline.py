"""Submit a pipeline with azure-ai-ml's own language for them, stream and read it; print what it says, as JSON. Argument: a folder for files."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from azure.ai.ml import Input, MLClient, Output, command, dsl
from azure.ai.ml.entities import Environment
from azure_ai_ml_jobs import below, streamed  # type: ignore[import-not-found]
from azure_ai_ml_read import opened  # type: ignore[import-not-found]

IMAGE = "docker.io/python:3.11"


def pipeline_of(folder: Path) -> Any:
    """Two steps: the first writes a word that it is given, the second reads it."""
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "make.py").write_text("import pathlib, sys\npathlib.Path(sys.argv[2], 'word.txt').write_text(sys.argv[1])\nprint('made')\n")
    making = command(
        name="make_a_word",
        command="python make.py ${{inputs.word}} ${{outputs.made}}",
        code=str(folder / "code"),
        environment=Environment(image=IMAGE),
        inputs={"word": Input(type="string")},
        outputs={"made": Output(type="uri_folder")},
    )
    taking = command(command="cat ${{inputs.made}}/word.txt", environment=Environment(image=IMAGE), inputs={"made": Input(type="uri_folder")})

    # its annotations are read: this file has no `from __future__ import annotations`
    @dsl.pipeline(compute="cpu-cluster", description="of the sdk")  # type: ignore[call-overload, untyped-decorator]
    def words(word: str) -> dict[str, Any]:
        make: Any = making(word=word)
        take: Any = taking(made=make.outputs.made)
        take.display_name = "take"
        return {"all": make.outputs.made}

    return words(word="hello")


def described(client: MLClient, name: str, folder: Path) -> dict[str, Any]:
    """The job, its children and their files, as the client has them."""
    job = client.jobs.get(name)
    children = {child.display_name: child for child in client.jobs.list(parent_job_name=name)}
    files = {}
    for shown, child in children.items():
        client.jobs.download(child.name, download_path=folder / shown)
        files[shown] = below(folder / shown)
    return {
        "status": job.status,
        "type": job.type,
        "jobs": sorted(job.jobs),
        "tags": job.tags,
        "name": job.display_name,
        "children": {shown: {"id": child.name, "status": child.status} for shown, child in children.items()},
        "files": files,
    }


def main() -> None:
    folder, client = Path(sys.argv[1]), opened()
    job = client.jobs.create_or_update(pipeline_of(folder), experiment_name="of_the_sdk")
    log = streamed(client, job.name)
    himl = os.environ.get("LAB_PIPELINE", "")
    found = {"id": job.name, "log": log, "own": described(client, job.name, folder / "own")}
    sys.stdout.write(json.dumps(found | ({"himl": described(client, himl, folder / "himl")} if himl else {})) + "\n")


if __name__ == "__main__":
    main()

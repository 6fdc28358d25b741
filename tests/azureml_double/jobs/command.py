"""The fields of a job: its command with references, durations, and azureml-core's definition. Also the settings for
running jobs.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.azureml_double.state import Json

MECHANISMS = {"mount": "ReadOnlyMount", "download": "Download", "direct": "Direct"}
OUTPUT_MECHANISMS = {"mount": "ReadWriteMount", "upload": "Upload"}
_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
_REFERENCE = re.compile(r"\$\{\{\s*(?:(inputs|outputs)\.(\w+)|(name))\s*\}\}")
_VALUE = re.compile(r"\$\{\{\s*search_space\.([\w.-]+)\s*\}\}")
Value = str | int | float | bool
Values = Mapping[str, Value]
CHOICE = "choice"
MOST_TRIALS = 1000
LONGEST_SWEEP = "P60D"  # for a sweep without a time limit


@dataclass(frozen=True)
class Manner:
    """How the jobs of a workspace run."""

    # Each job stays Queued until it is released.
    hold: bool = False
    # Logs are replaced as they grow, not appended to.
    whole_logs: bool = False
    # Logs of later attempts go to `user_logs/retry_001` and so on. Otherwise they replace the previous logs.
    retry_logs: bool = False
    # A sweep fails when one trial fails, and not only when the first three or all of them fail.
    fails_with_a_trial: bool = False
    # The tags with a trial's values. `tag`, `system_tag`: the tags of the trial that OWN_TAGS lists, and a tag of
    # the sweep. `sweep`: only the tag of the sweep. `old_sweep`: the same, without the prefix.
    values_in: str = "tag"
    minute: float = 60.0  # seconds per minute of a limit (`timeout`, `trialTimeout`)
    # The disk of the next attempt. `new`: its `outputs` go to `outputs/retry_001` and so on. `restored`: `outputs`
    # and `logs` are restored.
    disk: str = "new"
    service_status: str = "Running"  # initial status of a job's interactive services
    # Log of the build of each job's image. If empty, the image exists already.
    image_log: str = ""
    # The image build fails, and with it the job.
    image_fails: bool = False
    # The `python` of jobs. Programs in its folder take precedence over all others.
    python: Path = field(default_factory=lambda: Path(sys.executable))


def seconds_of(duration: str) -> float:
    """Return the seconds of an ISO 8601 duration such as `P1DT2H3M4S`. Raises ValueError for other forms. The service
    does not support fractions of a second.
    """
    found = _DURATION.fullmatch(duration)
    if found is None or not any(found.groups()):
        raise ValueError(f"'{duration}' is no duration")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def filled(command: str, name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """Replace the references in *command*, without quoting, as the service does."""
    return _REFERENCE.sub(
        lambda found: name if found[3] else (inputs if found[1] == "inputs" else outputs)[found[2]], command
    )


def with_values(command: str, values: Mapping[str, str]) -> str:
    return _VALUE.sub(lambda found: values[found[1]], command)


def unknown_references(job: Json) -> list[str]:
    known: dict[str, Mapping[str, Any]] = {"inputs": job.get("inputs") or {}, "outputs": job.get("outputs") or {}}
    command = job.get("command") or ""
    unknown = [
        f"{found[1]}.{found[2]}"
        for found in _REFERENCE.finditer(command)
        if found[1] and found[2] not in known[found[1]]
    ]
    return unknown + [
        f"search_space.{found[1]}"
        for found in _VALUE.finditer(command)
        if found[1] not in (job.get("searchSpace") or {})
    ]


def as_job(definition: Json, code_id: str) -> Json:
    words = [_word(str(text)) for text in definition.get("arguments") or []]
    limit, nodes = definition.get("maxRunDurationSeconds"), int(definition.get("nodeCount") or 1)
    # PyTorch counts processes over all nodes, MPI per node.
    distribution = None
    if definition.get("framework") == "PyTorch":
        distribution = {
            "distributionType": "PyTorch",
            "processCountPerInstance": int(definition["pytorch"]["processCount"] or nodes) // nodes,
        }
    elif definition.get("communicator") in ("IntelMpi", "OpenMpi"):
        distribution = {
            "distributionType": "Mpi",
            "processCountPerInstance": int(definition["mpi"]["processCountPerNode"]),
        }
    form: Json = {"jobType": "Command", "codeId": code_id}
    form |= {"command": definition.get("command") or " ".join(["python", shlex.quote(definition["script"]), *words])}
    form |= {
        "environmentVariables": {
            name: str(value) for name, value in (definition.get("environmentVariables") or {}).items()
        }
    }
    form |= {"inputs": {key: _input(given) for key, given in (definition.get("data") or {}).items()}}
    form |= {"outputs": {key: _output(given) for key, given in (definition.get("outputData") or {}).items()}}
    form |= {"resources": {"instanceCount": nodes}, "distribution": distribution}
    return form | {"limits": {"jobLimitsType": "Command", "timeout": f"PT{limit}S"} if limit else None}


def _word(text: str) -> str:
    """Return an argument, quoted, or the reference to data if the argument is its path."""
    for mark, kind in (("DatasetConsumptionConfig:", "inputs"), ("DatasetOutputConfig:", "outputs")):
        if text.startswith(mark):
            return f"${{{{{kind}.{text.removeprefix(mark)}}}}}"
    return shlex.quote(text)


def _input(given: Json) -> Json:
    location = given["dataLocation"]
    found = {"mode": MECHANISMS[given["mechanism"]], "pathOnCompute": given.get("pathOnCompute")}
    if location.get("uri"):
        return {
            "jobInputType": "uri_file" if location["uri"]["isFile"] else "uri_folder",
            "uri": location["uri"]["path"],
            **found,
        }
    dataset = location["dataset"]
    return {"jobInputType": "mltable", "uri": f"azureml:{dataset['name']}:{dataset['version']}", **found}


def _output(given: Json) -> Json:
    options, place = given["additionalOptions"], given["outputLocation"]["dataPath"]
    form: Json = {
        "jobOutputType": "uri_folder",
        "uri": f"azureml://datastores/{place['datastoreName']}/paths/{place['relativePath']}/",
    }
    form |= {
        "mode": OUTPUT_MECHANISMS[given["mechanism"]],
        "assetName": (options.get("registrationOptions") or {}).get("name"),
    }
    return form | {"pathOnCompute": options.get("pathOnCompute")}


def size_of(space: Json) -> int | None:
    sizes = [
        len(given[0]) if kind == CHOICE else given[0] if kind == "randint" else None for kind, given in space.values()
    ]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)

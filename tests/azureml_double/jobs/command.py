"""Parts of a job: its command with references, durations, azureml-core's definition, and options for running jobs."""

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
LONGEST_SWEEP = "P60D"  # default limit


@dataclass(frozen=True)
class Manner:
    """Options for running the jobs of a workspace."""

    hold: bool = False  # each job waits in the status Queued until it is released
    whole_logs: bool = False  # logs are replaced as they grow, not appended to
    retry_logs: bool = False  # later attempts log to `user_logs/retry_001`, …; else each replaces the previous logs
    fails_with_a_trial: bool = False  # one failed trial fails the sweep, not only the first three or all
    values_in: str = "tag"  # of a trial, as in OWN_TAGS, or only on the sweep (`sweep`; `old_sweep`: without the prefix)
    minute: float = 60.0  # seconds per minute of a limit (`timeout`, `trialTimeout`)
    disk: str = "new"  # of the next attempt, with `outputs/retry_001`, …; `restored`: it has `outputs` and `logs` again
    service_status: str = "Running"  # first status of the interactive services of a job
    image_log: str = ""  # log of each image build; without it, the image exists
    image_fails: bool = False  # the build fails, and so does the job
    python: Path = field(default_factory=lambda: Path(sys.executable))  # the jobs' `python`; its folder is first on PATH


def seconds_of(duration: str) -> float:
    """The seconds of `P1DT2H3M4S` (ISO 8601). Raises ValueError for other forms, since the service does not support fractions of a second."""
    found = _DURATION.fullmatch(duration)
    if found is None or not any(found.groups()):
        raise ValueError(f"'{duration}' is no duration")
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def filled(command: str, name: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    """*command* with its references replaced literally, without quoting, as by the service."""
    return _REFERENCE.sub(lambda found: name if found[3] else (inputs if found[1] == "inputs" else outputs)[found[2]], command)


def with_values(command: str, values: Mapping[str, str]) -> str:
    return _VALUE.sub(lambda found: values[found[1]], command)


def unknown_references(job: Json) -> list[str]:
    known: dict[str, Mapping[str, Any]] = {"inputs": job.get("inputs") or {}, "outputs": job.get("outputs") or {}}
    command = job.get("command") or ""
    unknown = [f"{found[1]}.{found[2]}" for found in _REFERENCE.finditer(command) if found[1] and found[2] not in known[found[1]]]
    return unknown + [f"search_space.{found[1]}" for found in _VALUE.finditer(command) if found[1] not in (job.get("searchSpace") or {})]


def as_job(definition: Json, code_id: str) -> Json:
    words = [_word(str(text)) for text in definition.get("arguments") or []]
    limit, nodes = definition.get("maxRunDurationSeconds"), int(definition.get("nodeCount") or 1)
    distribution = None  # the count of PyTorch is for all nodes, that of MPI per node
    if definition.get("framework") == "PyTorch":
        distribution = {"distributionType": "PyTorch", "processCountPerInstance": int(definition["pytorch"]["processCount"] or nodes) // nodes}
    elif definition.get("communicator") in ("IntelMpi", "OpenMpi"):
        distribution = {"distributionType": "Mpi", "processCountPerInstance": int(definition["mpi"]["processCountPerNode"])}
    form: Json = {"jobType": "Command", "codeId": code_id}
    form |= {"command": definition.get("command") or " ".join(["python", shlex.quote(definition["script"]), *words])}
    form |= {"environmentVariables": {name: str(value) for name, value in (definition.get("environmentVariables") or {}).items()}}
    form |= {"inputs": {key: _input(given) for key, given in (definition.get("data") or {}).items()}}
    form |= {"outputs": {key: _output(given) for key, given in (definition.get("outputData") or {}).items()}}
    form |= {"resources": {"instanceCount": nodes}, "distribution": distribution}
    return form | {"limits": {"jobLimitsType": "Command", "timeout": f"PT{limit}S"} if limit else None}


def _word(text: str) -> str:
    """A quoted argument, or the reference for a path of data."""
    for mark, kind in (("DatasetConsumptionConfig:", "inputs"), ("DatasetOutputConfig:", "outputs")):
        if text.startswith(mark):
            return f"${{{{{kind}.{text.removeprefix(mark)}}}}}"
    return shlex.quote(text)


def _input(given: Json) -> Json:
    location = given["dataLocation"]
    found = {"mode": MECHANISMS[given["mechanism"]], "pathOnCompute": given.get("pathOnCompute")}
    if location.get("uri"):
        return {"jobInputType": "uri_file" if location["uri"]["isFile"] else "uri_folder", "uri": location["uri"]["path"], **found}
    dataset = location["dataset"]
    return {"jobInputType": "mltable", "uri": f"azureml:{dataset['name']}:{dataset['version']}", **found}


def _output(given: Json) -> Json:
    options, place = given["additionalOptions"], given["outputLocation"]["dataPath"]
    form: Json = {"jobOutputType": "uri_folder", "uri": f"azureml://datastores/{place['datastoreName']}/paths/{place['relativePath']}/"}
    form |= {"mode": OUTPUT_MECHANISMS[given["mechanism"]], "assetName": (options.get("registrationOptions") or {}).get("name")}
    return form | {"pathOnCompute": options.get("pathOnCompute")}


def size_of(space: Json) -> int | None:
    sizes = [len(given[0]) if kind == CHOICE else given[0] if kind == "randint" else None for kind, given in space.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)

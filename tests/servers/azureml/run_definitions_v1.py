"""azureml-core's run definition as the `properties` of a job of resource manager, which is what the double executes."""

from __future__ import annotations

import shlex

from tests.servers.azureml.state import Json

MECHANISMS = {"mount": "ReadOnlyMount", "download": "Download", "direct": "Direct"}
OUTPUT_MECHANISMS = {"mount": "ReadWriteMount", "upload": "Upload"}
INPUT, OUTPUT = "DatasetConsumptionConfig:", "DatasetOutputConfig:"


def as_job(definition: Json, code_id: str) -> Json:
    """The job that *definition* (azureml-core's `Configuration`) stands for."""
    environment = {name: str(value) for name, value in (definition.get("environmentVariables") or {}).items()}
    limit = definition.get("maxRunDurationSeconds")
    return {
        "jobType": "Command",
        "codeId": code_id,
        "command": _command(definition),
        "environmentVariables": environment,
        "inputs": {key: _input(given) for key, given in (definition.get("data") or {}).items()},
        "outputs": {key: _output(given) for key, given in (definition.get("outputData") or {}).items()},
        "resources": {"instanceCount": int(definition.get("nodeCount") or 1)},
        "distribution": _distribution(definition),
        "limits": {"jobLimitsType": "Command", "timeout": f"PT{limit}S"} if limit else None,
    }


def _command(definition: Json) -> str:
    if definition.get("command"):
        return str(definition["command"])
    words = [_word(str(text)) for text in definition.get("arguments") or []]
    return " ".join(["python", shlex.quote(definition["script"]), *words])


def _word(text: str) -> str:
    """An argument: quoted, or for a path of data the reference to it."""
    for mark, kind in ((INPUT, "inputs"), (OUTPUT, "outputs")):
        if text.startswith(mark):
            return f"${{{{{kind}.{text.removeprefix(mark)}}}}}"
    return shlex.quote(text)


def _input(given: Json) -> Json:
    location = given["dataLocation"]
    found = {"mode": MECHANISMS[given["mechanism"]], "pathOnCompute": given.get("pathOnCompute")}
    if location.get("uri"):
        kind = "uri_file" if location["uri"]["isFile"] else "uri_folder"
        return {"jobInputType": kind, "uri": location["uri"]["path"], **found}
    dataset = location["dataset"]
    return {"jobInputType": "mltable", "uri": f"azureml:{dataset['name']}:{dataset['version']}", **found}


def _output(given: Json) -> Json:
    options = given["additionalOptions"]
    place = given["outputLocation"]["dataPath"]
    return {
        "jobOutputType": "uri_folder",
        "uri": f"azureml://datastores/{place['datastoreName']}/paths/{place['relativePath']}/",
        "mode": OUTPUT_MECHANISMS[given["mechanism"]],
        "assetName": (options.get("registrationOptions") or {}).get("name"),
        "pathOnCompute": options.get("pathOnCompute"),
    }


def _distribution(definition: Json) -> Json | None:
    """Processes of PyTorch are counted over all nodes, those of MPI on each."""
    nodes = int(definition.get("nodeCount") or 1)
    if definition.get("framework") == "PyTorch":
        return {"distributionType": "PyTorch", "processCountPerInstance": int(definition["pytorch"]["processCount"] or nodes) // nodes}
    if definition.get("communicator") in ("IntelMpi", "OpenMpi"):
        return {"distributionType": "Mpi", "processCountPerInstance": int(definition["mpi"]["processCountPerNode"])}
    return None

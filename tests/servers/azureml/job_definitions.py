"""The definition of a submitted command job, as run history tells it (wire document 4.1): the older SDK's form, made from what was sent."""

from __future__ import annotations

from tests.servers.azureml.jobs.command import filled
from tests.servers.azureml.state import Json, Run

ASKED = "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/"
MECHANISMS = {"ReadWriteMount": "Mount", "ReadOnlyMount": "Mount", "EvalMount": "Mount", "EvalDownload": "Download"}


def definition_of_job(run: Run) -> Json:
    """Of a run that has a job. Where data stands in the command is a mark, places are told as they were asked for."""
    assert run.job is not None, "a run without a job"
    job = run.job
    inputs, outputs = job.get("inputs") or {}, {name: given for name, given in (job.get("outputs") or {}).items() if name != "default"}
    shown = {name: given.get("value") or f"DatasetConsumptionConfig:{name}" for name, given in inputs.items()}
    resources, distribution = job.get("resources") or {}, job.get("distribution") or {}
    each = distribution.get("processCountPerInstance") or 1
    kind = distribution.get("distributionType")
    nodes = resources.get("instanceCount") or 1
    return {
        "script": None,
        "command": filled(job["command"], run.run_id, shown, {name: f"DatasetOutputConfig:{name}" for name in outputs}),
        "useAbsolutePath": False,
        "arguments": [],
        "target": run.target,
        "framework": "Python",
        "communicator": {"PyTorch": "None", "Mpi": "Mpi"}.get(kind or "", "None"),
        "nodeCount": nodes,
        "instanceTypes": [],
        "environment": {"assetId": job.get("environmentId"), "name": None, "version": None},
        "environmentVariables": job.get("environmentVariables") or {},
        "docker": {"useDocker": True, "sharedVolumes": True, "shmSize": resources.get("shmSize") or "2g", "arguments": _arguments(resources)},
        "mpi": {"processCountPerNode": each if kind == "Mpi" else 1},
        "pyTorch": {"communicationBackend": "nccl", "processCount": each * nodes if kind == "PyTorch" else None},
        "data": {},
        "inputs": {},
        "outputData": {name: _output(name, given) for name, given in outputs.items()},
    }


def _arguments(resources: Json) -> list[str]:
    """Of docker: sent as one text, or as a list."""
    return list(resources.get("dockerArgsList") or str(resources.get("dockerArgs") or "").split())


def _output(name: str, given: Json) -> Json:
    kind = given["jobOutputType"]
    uri = {"path": given.get("uri") or f"{ASKED}{name}/", "isFile": kind == "uri_file"}
    registered = {"name": given.get("assetName"), "version": given.get("assetVersion")}
    return {
        "outputLocation": {"dataset": None, "dataPath": None, "uri": uri, "type": "UriFile" if kind == "uri_file" else "UriFolder"},
        "mechanism": MECHANISMS.get(given.get("mode") or "ReadWriteMount", given.get("mode")),
        "additionalOptions": {
            "pathOnCompute": given.get("pathOnCompute"),
            "registrationOptions": registered,
            "uploadOptions": None,
            "mountOptions": None,
        },
        "environmentVariableName": f"AZURE_ML_OUTPUT_{name}",
    }

"""What `rundata` tells of a run beside its record: the assets of its outputs, and the definition of the job, as recorded from the service."""

from __future__ import annotations

from tests.servers.azureml.job_definitions import definition_of_job
from tests.servers.azureml.state import Json, Output, Run, Workspace

DEFAULT_OUTPUT = "default"
PIPELINE, STEP = "azureml.PipelineRun", "azureml.StepRun"
MODELS = ("CustomModel", "MLFlowModel", "TritonModel")


def is_without_job(run: Run) -> bool:
    """Whether a client made the run itself: recorded ones then have no inputs, outputs and definition, not even empty ones."""
    return run.target is None and not run.outputs


def outputs_form(workspace: Workspace, run: Run) -> Json | None:
    """The assets by the names of the outputs. Only `rundata` tells them: in all other records of a run they are null."""
    if is_without_job(run):
        return None
    return {name: {"assetId": output.asset_id, "type": output.kind} for name, output in outputs_of(workspace, run).items()}


def outputs_of(workspace: Workspace, run: Run) -> dict[str, Output]:
    """The run's named outputs, with the one that the service adds to each but pipelines and their steps: its artifacts, called `default`."""
    if run.run_type in (PIPELINE, STEP):
        return run.outputs
    asset = f"azureml://locations/{workspace.location}/workspaces/{workspace.workspace_id}/data/azureml_{run.run_id}_output_data_{DEFAULT_OUTPUT}/versions/1"
    group = f"azureml://subscriptions/{workspace.subscription}/resourcegroups/{workspace.group}/workspaces/{workspace.name}"
    artifacts = Output(uri=f"{group}/datastores/workspaceartifactstore/paths/{run.artifact_prefix}", asset_id=asset)
    return {DEFAULT_OUTPUT: artifacts} | run.outputs


def definition_of(run: Run) -> Json | None:
    """The definition that a test gave the run, else one of its outputs: that of a pipeline is spelled in its own way, and tells no places."""
    if run.definition is not None or is_without_job(run):
        return run.definition
    if run.job is not None and run.job.get("jobType") == "Command":
        return definition_of_job(run)
    if run.run_type == PIPELINE:
        nowhere = {"Uri": None, "AssetName": None, "AssetVersion": None, "Description": None, "JobOutputType": 3}
        bound = nowhere | {"DatastoreId": None, "PathOnDatastore": None, "PathOnCompute": None, "Mode": "ReadWriteMount", "AssetUri": None}
        outputs, bindings = dict.fromkeys(run.outputs, nowhere | {"Mode": 0}), dict.fromkeys(run.outputs, bound | {"IsAssetJobOutput": True})
        return {"JobType": "Pipeline", "PipelineJobType": "AzureML", "Inputs": {}, "Outputs": outputs, "InputBindings": {}, "OutputBindings": bindings}
    return {
        "script": run.script,
        "command": f"python {run.script or 'train.py'}",
        "arguments": [],
        "target": run.target,
        "outputData": {name: _defined(run, name, output) for name, output in run.outputs.items()},
    }


def _defined(run: Run, name: str, output: Output) -> Json:
    """An output's place as it was asked for, before there was a run: with a mark where the id goes, `{name}` in steps, `${{name}}` elsewhere."""
    store, _, path = output.uri.partition("/datastores/")[2].partition("/paths/")
    mark = "{name}" if run.run_type == STEP else "${{name}}"
    uri = {"path": f"azureml://datastores/{store}/paths/{path.replace(f'/{run.run_id}/', f'/{mark}/')}", "isFile": output.kind == "UriFile"}
    return {
        "outputLocation": {"dataset": None, "dataPath": None, "uri": uri, "type": output.kind},
        "mechanism": "Mount",
        "additionalOptions": {"pathOnCompute": None, "registrationOptions": {"name": None}, "uploadOptions": None, "mountOptions": None},
        "environmentVariableName": f"AZURE_ML_OUTPUT_{name}",
    }

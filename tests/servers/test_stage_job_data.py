"""What jobs that the double really runs read and write: code, inputs, outputs, identities."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.asking import token_for
from tests.servers.azureml.api_versions import WITH_PATHS
from tests.servers.azureml.seeding import DEFAULT, StagedWorkspace
from tests.servers.submitting import call, ended, printed, put_job

SHORT = "azureml://datastores/workspaceblobstore/paths/"
SCANS = {"scans/a.txt": b"A", "scans/deep/b c.txt": b"B", "scans-old/c.txt": b"C"}


@pytest.fixture
def running(azure: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """A workspace with data, that runs what is submitted."""
    azure.put_blobs(DEFAULT, SCANS)
    with azure.run_jobs():
        yield azure


def folder(uri: str, **more: Any) -> dict[str, Any]:
    return {"jobInputType": "uri_folder", "uri": uri, "mode": "ReadOnlyMount", **more}


def uris(azure: StagedWorkspace) -> dict[str, str]:
    """Every way to name the same folder."""
    state, storage, container = azure.state, azure.state.storage, azure.state.datastores[DEFAULT].container
    azure.add_data("scans", f"{SHORT}scans-old/", "1")
    newest = azure.add_data("scans", f"{SHORT}scans/", "2")
    return {
        "short": f"{SHORT}scans/",
        "without a slash": f"{SHORT}scans",
        "long": f"azureml://subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}/datastores/{DEFAULT}/paths/scans",
        "id": newest,
        "version": "azureml:scans:2",
        "latest": "azureml:scans@latest",
        "https": f"https://{storage.host}/{container}/scans/",
        "wasbs": f"wasbs://{container}@{storage.host}/scans",
    }


@pytest.mark.parametrize("way", ["short", "without a slash", "long", "id", "version", "latest", "https", "wasbs"])
def test_a_folder_is_there_whatever_way_it_is_named(running: StagedWorkspace, way: str) -> None:
    inputs = {"d": folder(uris(running)[way], mode="Download")}
    ended(running, 'cd ${{inputs.d}}; find . -type f | sort; [ "$PWD" = "$AZURE_ML_INPUT_d" ] && echo same', inputs=inputs)
    assert printed(running).splitlines() == ["./a.txt", "./deep/b c.txt", "same"]


def test_a_file_and_a_literal_stand_in_the_command(running: StagedWorkspace) -> None:
    inputs = {
        "file": {"jobInputType": "uri_file", "uri": f"{SHORT}scans/deep/b%20c.txt", "mode": "Download"},
        "n": {"jobInputType": "literal", "value": "3"},
        "place": folder(f"{SHORT}scans", mode="Direct"),
    }
    ended(running, 'cat "${{inputs.file}}"; echo " ${{inputs.n}} ${{ name }} ${{inputs.place}} ${AZURE_ML_INPUT_n:-unset}"', inputs=inputs)
    assert printed(running) == f"B 3 job_1 {SHORT}scans unset\n"


def test_data_lies_where_the_job_wants_it(running: StagedWorkspace, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed" / "scans"
    ended(
        running,
        f"cat {fixed}/a.txt here/a.txt",
        inputs={"d": folder(f"{SHORT}scans", pathOnCompute=str(fixed)), "e": folder(f"{SHORT}scans", pathOnCompute="here")},
        version=WITH_PATHS[0],
    )
    assert printed(running) == "AA"
    assert not fixed.parent.exists()


def test_versions_that_know_no_path_pass_over_it(running: StagedWorkspace) -> None:
    ended(running, "ls; cat ${{inputs.d}}/a.txt", inputs={"d": folder(f"{SHORT}scans", pathOnCompute="here")})
    assert printed(running) == "A"


def test_environment_variables_keep_references_unexpanded(running: StagedWorkspace) -> None:
    ended(running, 'printf %s "$MINE"', inputs={"d": folder(f"{SHORT}scans")}, environmentVariables={"MINE": "${{inputs.d}}"})
    assert printed(running) == "${{inputs.d}}"


def test_variables_may_be_called_in_upper_case(azure: StagedWorkspace) -> None:
    azure.put_blobs(DEFAULT, SCANS)
    with azure.run_jobs(data_names="upper"):
        ended(azure, 'cat "$AZURE_ML_INPUT_D"/a.txt; echo "${AZURE_ML_INPUT_d:-none}"', inputs={"d": folder(f"{SHORT}scans")})
    assert printed(azure) == "Anone\n"


@pytest.mark.parametrize("uri", [f"{SHORT}none/", "azureml://datastores/none/paths/x", "https://elsewhere.blob.core.windows.net/c/x", "ftp://x/y"])
def test_a_job_fails_for_data_that_is_not_there(running: StagedWorkspace, uri: str) -> None:
    run = ended(running, "echo never", "Failed", inputs={"d": folder(uri)})
    assert run.error is not None
    assert (run.error["error"]["code"], run.error["componentName"]) == ("UserError", "data-capability")
    assert uri in run.error["error"]["message"]
    assert running.artifacts("job_1") == {}


def output(kind: str = "uri_folder", **more: Any) -> dict[str, Any]:
    return {"jobOutputType": kind, "mode": "ReadWriteMount", **more}


def test_an_output_goes_to_its_own_folder_and_is_told(running: StagedWorkspace) -> None:
    ended(running, "mkdir ${{outputs.o}}/deep; echo 1 > $AZURE_ML_OUTPUT_o/deep/x", outputs={"o": output()})
    assert running.get_blob(DEFAULT, "azureml/job_1/o/deep/x") == b"1\n"
    assert call(running, "GET", "/jobs/job_1").json["properties"]["outputs"]["o"]["uri"].endswith("/datastores/workspaceblobstore/paths/azureml/job_1/o/")
    base = f"https://{running.state.data_plane_host}"
    wish = {"runId": "job_1", "selectRunMetadata": True, "selectRunDefinition": True}
    told = call(running, "POST", f"{base}/history/v1.0{running.state.path}/rundata", wish).json
    place = told["runDefinition"]["outputData"]["o"]["outputLocation"]["uri"]["path"]
    assert place == "azureml://datastores/workspaceblobstore/paths/azureml/${{name}}/o/"
    asset = told["runMetadata"]["outputs"]["o"]["assetId"]
    found = call(running, "POST", f"{base}/data/v1.0{running.state.path}/dataversion/batchGetResolvedUris", {"values": [asset]}).json["values"]
    assert found[asset]["uri"].endswith("/paths/azureml/job_1/o/")


def test_an_output_is_registered_as_the_next_version_of_its_name(running: StagedWorkspace) -> None:
    running.add_data("masks", "https://example.org/x", "4")
    given = output(uri=f"{SHORT}masks/${{{{name}}}}/", assetName="masks")
    ended(running, "echo 1 > ${{outputs.o}}/x", outputs={"o": given})
    version = call(running, "GET", "/data/masks/versions/5").json["properties"]
    assert version["dataUri"].endswith("/datastores/workspaceblobstore/paths/masks/job_1/")
    shown = call(running, "GET", "/jobs/job_1").json["properties"]["outputs"]["o"]
    assert (shown["assetName"], shown["assetVersion"]) == ("masks", None)


def test_output_is_not_registered_as_data_of_another_type(running: StagedWorkspace) -> None:
    running.add_data("masks", "https://example.org/x.csv", "1", kind="uri_file")
    ended(running, "echo 1 > ${{outputs.o}}/x", outputs={"o": output(uri=f"{SHORT}masks/", assetName="masks")})
    assert running.blob_names(DEFAULT, "masks/") == ["masks/x"]
    assert call(running, "GET", "/data/masks/versions/2").status == 404
    version = {"dataType": "uri_folder", "dataUri": f"{SHORT}masks/"}
    assert call(running, "PUT", "/data/masks/versions/2", {"properties": version}).status == 400


@pytest.mark.parametrize(("mode", "kept"), [("ReadWriteMount", ["masks/x"]), ("Upload", [])])
def test_what_a_failing_job_wrote_is_kept_where_it_was_mounted(running: StagedWorkspace, mode: str, kept: list[str]) -> None:
    ended(running, "echo 1 > ${{outputs.o}}/x; exit 1", "Failed", outputs={"o": output(uri=f"{SHORT}masks", mode=mode)})
    assert running.blob_names(DEFAULT, "masks/") == kept


def test_an_output_can_be_a_file_or_lie_in_a_fixed_folder(running: StagedWorkspace, tmp_path: Path) -> None:
    fixed = tmp_path / "results"
    outputs = {"f": output("uri_file", uri=f"{SHORT}single/result.csv"), "g": output(uri=f"{SHORT}fixed", pathOnCompute=str(fixed))}
    ended(running, f"echo 1 > ${{{{outputs.f}}}}; echo 2 > {fixed}/y", outputs=outputs, version=WITH_PATHS[0])
    assert running.get_blob(DEFAULT, "single/result.csv") == b"1\n"
    assert running.get_blob(DEFAULT, "fixed/y") == b"2\n"


def test_code_is_laid_into_the_working_folder(running: StagedWorkspace) -> None:
    running.put_blobs(DEFAULT, {"code/train.py": b"import lib.part\n", "code/lib/part.py": b"print('part')\n", "code-2/train.py": b"print(2)\n"})
    where = f"https://{running.state.storage.host}:443/{running.state.datastores[DEFAULT].container}/code"
    assert call(running, "PUT", "/codes/one/versions/1", {"properties": {"codeUri": where, "properties": {}}}).status == 201
    ended(running, "python train.py; find . -type f -name '*.py' | sort", codeId=f"{running.state.path}/codes/one/versions/1")
    assert printed(running) == "part\n./lib/part.py\n./train.py\n"


ASK = """
import json, os, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
url = os.environ.get("OBO_ENDPOINT") or os.environ["MSI_ENDPOINT"]
request = urllib.request.Request(url + "?resource=https://management.azure.com/", headers={"secret": os.environ.get("MSI_SECRET", "")})
print(json.load(opener.open(request))["access_token"].split(".")[1])
"""


@pytest.mark.parametrize("identity", ["UserIdentity", "Managed"])
def test_a_job_with_an_identity_is_given_its_tokens(running: StagedWorkspace, identity: str) -> None:
    token = token_for(running.stage, running.state.principal, "https://ml.azure.com")
    ended(running, f"python -c '{ASK}'", identity={"identityType": identity}, headers={"x-azureml-token": token})
    own = token_for(running.stage, running.state.principal, "https://management.azure.com").split(".")[1]
    assert _claims(printed(running).strip())["appid"] == _claims(own)["appid"] == running.state.principal.client_id


@pytest.mark.parametrize("audience", ["", "https://management.azure.com"])
def test_the_submitter_s_identity_wants_a_token_for_it(running: StagedWorkspace, audience: str) -> None:
    headers = {"x-azureml-token": token_for(running.stage, running.state.principal, audience)} if audience else {}
    assert put_job(running, "echo never", identity={"identityType": "UserIdentity"}, headers=headers).status == 400
    assert running.state.runs == {}


def test_a_job_without_an_identity_has_its_run_token_alone(running: StagedWorkspace) -> None:
    ended(
        running,
        "env | grep -c -E 'OBO_ENDPOINT|MSI_ENDPOINT|IDENTITY_ENDPOINT' || true; python -c 'import os; print(os.environ[\"AZUREML_RUN_TOKEN\"] != \"\")'",
    )
    assert printed(running) == "0\nTrue\n"


def _claims(body: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims

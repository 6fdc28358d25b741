"""Inputs and outputs of a job as azureml-core's run configuration has them.

Data are named by where they lie (`azureml://datastores/…`), which the service takes for the old and the new kind of
data assets alike; azureml-core's own classes for datasets need another package with native parts that is not maintained
either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from himl_cli.core.errors import NotFound
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.forms import JobInput, JobOutput
from himl_cli.workspaces.azure.places import api_versions

VERSION = re.compile(r".*/data/(?P<name>[^/]+)/versions/(?P<version>[^/]+)/?", re.IGNORECASE)
PLACE = re.compile(r"azureml://(?:.*/)?datastores/(?P<datastore>[^/]+)/paths/(?P<path>.*)", re.IGNORECASE)
MECHANISMS = {"ro_mount": "mount", "download": "download", "rw_mount": "mount", "upload": "upload"}


def sdk_inputs(connection: Connection, inputs: Mapping[str, JobInput]) -> dict[str, Any]:
    """`azureml.core.runconfig.Data` by key; a request for each that is a registered asset."""
    return {key: _input(connection, key, one) for key, one in inputs.items()}


def sdk_outputs(outputs: Mapping[str, JobOutput], *, overwrite: Mapping[str, bool]) -> dict[str, Any]:
    """`azureml.core.runconfig.OutputData` by key. *overwrite* says by key whether files that are there already may be
    replaced."""
    return {key: _output(one, overwrite=overwrite.get(key, True)) for key, one in outputs.items()}


def _input(connection: Connection, key: str, given: JobInput) -> Any:
    from azureml.core.runconfig import Data, DataLocation

    return Data(
        data_location=DataLocation(**_place_of(connection, given)),
        mechanism=MECHANISMS[given.mode],
        environment_variable_name=key,
        path_on_compute=given.target,
    )


def _place_of(connection: Connection, given: JobInput) -> dict[str, Any]:
    """The arguments of DataLocation: a place, or for a table, which is more than a place, the asset itself."""
    from azureml.core.runconfig import Dataset, Uri

    found = VERSION.fullmatch(given.path)
    if found is None:
        return {"uri": Uri(given.path, is_file=given.type == "uri_file")}
    if given.type == "mltable":
        return {"dataset": Dataset(dataset_name=found["name"], dataset_version=found["version"])}
    url = connection.arm(f"/data/{found['name']}/versions/{found['version']}")
    record = connection.rest.get_object(url, "data", params={"api-version": api_versions.DATA})
    place = (record.get("properties") or {}).get("dataUri")
    if not place:
        raise NotFound(f"Azure ML does not tell where the data '{found['name']}:{found['version']}' lie.")
    return {"uri": Uri(str(place), is_file=given.type == "uri_file")}


def _output(given: JobOutput, *, overwrite: bool) -> Any:
    from azureml.core import runconfig as sdk

    place, mechanism = PLACE.fullmatch(given.path), MECHANISMS[given.mode]
    if place is None:
        raise NotFound(f"'{given.path}' is no folder of a datastore.")
    registration = sdk.RegistrationOptions(
        given.asset_name, dataset_registration_options=sdk.DatasetRegistrationOptions(None)
    )
    options = sdk.OutputOptions(
        registration_options=registration,
        upload_options=sdk.UploadOptions(overwrite, None) if mechanism == "upload" else None,
        mount_options=sdk.MountOptions() if mechanism == "mount" else None,
    )
    location = sdk.DataLocation(data_path=sdk.DataPath(place["datastore"], place["path"].rstrip("/")))
    return sdk.OutputData(output_location=location, mechanism=mechanism, additional_options=options)

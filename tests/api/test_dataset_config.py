"""Datasets as scripts name them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from himl_cli import DatasetConfig
from himl_cli.api.submit_if_needed import as_configs
from himl_cli.core.jobs import DataSpec


def test_arguments_are_hi_mls() -> None:
    parameters = {name: each.default for name, each in inspect.signature(DatasetConfig).parameters.items()}
    assert parameters == {
        "name": inspect.Parameter.empty,
        "datastore": "",
        "overwrite_existing": True,
        "version": None,
        "use_mounting": None,
        "target_folder": None,
        "local_folder": None,
        "data_name": None,
    }
    order = ["name", "datastore", "overwrite_existing", "version", "use_mounting", "target_folder", "local_folder", "data_name"]
    assert list(parameters) == order


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        ({}, DataSpec("INPUT_3", "data", mode="download")),
        ({"datastore": "blobs", "version": 7}, DataSpec("INPUT_3", "data", "7", "blobs", "download")),
        ({"use_mounting": True, "target_folder": "/tmp/mnist"}, DataSpec("INPUT_3", "data", mode="mount", target=str(Path("/tmp/mnist")))),
        ({"use_mounting": False, "local_folder": Path("here"), "target_folder": ""}, DataSpec("INPUT_3", "data", mode="download", local="here")),
    ],
)
def test_an_input_is_downloaded_unless_mounting_is_asked_for(given: dict[str, Any], spec: DataSpec) -> None:
    assert DatasetConfig("data", **given).to_input(3) == spec


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        ({}, DataSpec("OUTPUT_0", "data", mode="mount")),
        ({"use_mounting": True, "overwrite_existing": False}, DataSpec("OUTPUT_0", "data", mode="mount", overwrite=False)),
        ({"use_mounting": False, "datastore": "blobs", "local_folder": "here"}, DataSpec("OUTPUT_0", "data", None, "blobs", "upload", local="here")),
    ],
)
def test_an_output_is_mounted_unless_uploading_is_asked_for(given: dict[str, Any], spec: DataSpec) -> None:
    assert DatasetConfig("data", **given).to_output(0) == spec


def test_data_name_is_the_key_in_a_job() -> None:
    assert DatasetConfig("data", data_name="images").to_input(3) == DataSpec("images", "data", mode="download")
    assert DatasetConfig("data", data_name="masks").to_output(0) == DataSpec("masks", "data", mode="mount")


@pytest.mark.parametrize("name", ["a b", "1st", "${{x}}"])
def test_a_data_name_that_azure_ml_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="data_name"):
        DatasetConfig("data", data_name=name)


def test_the_folder_of_an_output_in_a_job_cannot_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    assert DatasetConfig("data", target_folder="/tmp/out").to_output(0).target is None
    assert "target_folder is not used" in caplog.text


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of the dataset is empty"):
        DatasetConfig(name)


@pytest.mark.parametrize("target", [".", "./", Path(".")])
def test_data_may_not_cover_the_scripts_own_folder(target: str | Path) -> None:
    with pytest.raises(ValueError, match=r"'data': '\.' cannot be the target_folder"):
        DatasetConfig("data", target_folder=target)


def test_names_and_configs_may_be_mixed() -> None:
    assert as_configs(None) == []
    assert as_configs([" a ", DatasetConfig("b", version=2)]) == [DatasetConfig("a"), DatasetConfig("b", version=2)]


@pytest.mark.parametrize("datasets", ["a", DatasetConfig("a"), [Path("a")], [None]])
def test_what_is_no_list_of_datasets_is_refused(datasets: Any) -> None:
    with pytest.raises(TypeError, match=r"given as a list|is a name or a DatasetConfig"):
        as_configs(datasets)

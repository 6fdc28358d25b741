"""Models are registered, found, renamed and deleted; files of a version are found by its number, alias and stage."""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException


def code_of(call: Any, *arguments: str) -> str:
    try:
        call(*arguments)
    except MlflowException as error:
        return str(error.error_code)
    return ""


def numbers(found: Any) -> list[int]:
    return [int(version.version) for version in found]


folder = Path("model")
folder.mkdir(exist_ok=True)
(folder / "MLmodel").write_text("flavors: {}\n")
client = mlflow.MlflowClient()
with mlflow.start_run() as run:
    mlflow.log_artifacts(str(folder), "model")
    first = mlflow.register_model(f"runs:/{run.info.run_id}/model", "mine", tags={"kind": "first"})
    second = mlflow.register_model(f"runs:/{run.info.run_id}/model", "mine")
    mlflow.log_metric("after", 1)
assert numbers([first, second]) == [1, 2]
assert (first.run_id, first.tags, first.status) == (run.info.run_id, {"kind": "first"}, "READY")
assert Path(mlflow.artifacts.download_artifacts("models:/mine/1")).joinpath("MLmodel").is_file()

client.update_model_version("mine", "2", "better")
client.set_model_version_tag("mine", "2", "kind", "second")
client.set_model_version_tag("mine", "2", "gone", "1")
client.delete_model_version_tag("mine", "2", "gone")
client.set_registered_model_alias("mine", "champion", "2")
found = client.get_model_version_by_alias("mine", "champion")
assert (int(found.version), found.description, found.tags, list(found.aliases)) == (2, "better", {"kind": "second"}, ["champion"])
assert Path(mlflow.artifacts.download_artifacts("models:/mine@champion")).joinpath("MLmodel").is_file()
client.transition_model_version_stage("mine", "1", "Production")
assert sorted(numbers(client.get_latest_versions("mine"))) == [1, 2]
assert numbers(client.get_latest_versions("mine", ["production"])) == [1]
client.transition_model_version_stage("mine", "2", "Production", archive_existing_versions=True)
assert client.get_model_version("mine", "1").current_stage == "Archived"

assert numbers(client.search_model_versions("name = 'mine'", order_by=["version_number ASC"])) == [1, 2]
assert numbers(client.search_model_versions(f"run_id = '{run.info.run_id}' and tags.kind = 'second'")) == [2]
assert numbers(client.search_model_versions("version_number > 1")) == [2]
copy = client.copy_model_version("models:/mine/2", "copy")
assert client.get_model_version_download_uri("copy", copy.version) == client.get_model_version_download_uri("mine", "2")
client.create_registered_model("empty", tags={"team": "blue"}, description="none yet")
client.set_registered_model_tag("empty", "old", "1")
client.delete_registered_model_tag("empty", "old")
assert [model.name for model in client.search_registered_models()] == ["copy", "empty", "mine"]
assert [model.name for model in client.search_registered_models("name LIKE 'm%' ")] == ["mine"]
assert [model.name for model in client.search_registered_models("tags.team = 'blue'", order_by=["name DESC"])] == ["empty"]
page = client.search_registered_models(max_results=2)
assert [model.name for model in client.search_registered_models(page_token=page.token)] == ["mine"]

client.rename_registered_model("empty", "named")
client.update_registered_model("named", "still none")
named = client.get_registered_model("named")
assert (named.description, named.tags) == ("still none", {"team": "blue"})
assert code_of(client.create_registered_model, "named") == "RESOURCE_ALREADY_EXISTS"
assert code_of(client.rename_registered_model, "named", "mine") == "RESOURCE_ALREADY_EXISTS"
client.delete_registered_model("named")
assert code_of(client.get_registered_model, "named") == "RESOURCE_DOES_NOT_EXIST"
client.delete_registered_model_alias("mine", "champion")
assert code_of(client.get_model_version_by_alias, "mine", "champion") == "RESOURCE_DOES_NOT_EXIST"
client.delete_model_version("mine", "2")
assert code_of(client.get_model_version, "mine", "2") == "RESOURCE_DOES_NOT_EXIST"
assert numbers([mlflow.register_model("models:/mine/1", "mine")]) == [3], "a number was given twice"

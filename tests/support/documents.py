"""Readers of the Markdown documentation, golden files, and the names in tools that himl replaces."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer.main

from himl_cli.app import app
from himl_cli.commands.completion import app_shape
from himl_cli.commands.groups import normalized
from himl_cli.core.command_shape import CommandShape

DOCS = Path(__file__).parents[2] / "docs"
BEHIND = ("--", "|", ">", ">>", "||", "&&", ";")
"""What ends the words of a himl command in a shell."""

_FENCE = re.compile(r"^```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"(?:^ *\|.*\n?)+", re.MULTILINE)


def page(name: str) -> str:
    """The text of docs/*name*."""
    return (DOCS / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """A row of a table: the names (in backticks) of its first cell, and the text of the second."""

    names: tuple[str, ...]
    said: str

    @property
    def is_absent(self) -> bool:
        """Whether the row says that himl has no equivalent."""
        return self.said.startswith("—")

    @property
    def is_same(self) -> bool:
        return self.said.startswith("the same")


def rows(text: str, heading: str) -> list[Row]:
    """The rows of all two-column tables below *heading* (`## Commands`), up to the next heading, without the tables'
    heads.
    """
    section = re.split(r"^#", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found: list[Row] = []
    for line, following in pairwise([*section.splitlines(), ""]):
        if line.startswith("| ") and not following.startswith("|---"):
            first, second = (cell.strip() for cell in line.strip("|").split(" | "))
            found.append(Row(tuple(re.findall(r"`([^`]+)`", first)), second))
    return found


def torn_rows(text: str) -> list[str]:
    """The lines of tables in *text* with another number of cells than their head, and heads without a line of dashes
    below.

    A bar separates cells even in backticks, unless it follows a backslash (GitHub Flavored Markdown, section 4.10).
    """
    found: list[str] = []
    for table in _TABLE.findall(without_blocks(text)):
        head, *others = (line.strip() for line in table.splitlines())
        if not others or not re.fullmatch(r"[|:\- ]+", others[0]):
            found.append(head)
        found += [line for line in others if _cells(line) != _cells(head)]
    return found


def _cells(row: str) -> int:
    inside = row.removeprefix("|")
    return len(re.findall(r"(?<!\\)\|", inside)) + (not inside.endswith("|") or inside.endswith("\\|"))


def blocks(text: str, kind: str) -> list[str]:
    """The contents of code blocks of *kind* (`sh`, `yaml`, …)."""
    return [found["body"] for found in _FENCE.finditer(text) if found["kind"] == kind]


def without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


@cache
def program() -> Any:
    """himl's commands, which are built once for all tests."""
    return typer.main.get_command(app)


@cache
def shapes() -> Mapping[str, CommandShape]:
    """All commands and groups of the program by name."""
    return {shape.words: shape for shape in app_shape(program()).walk()}


def accepts(words: str, option: str) -> bool:
    """Whether the command *words* (`himl tb`) has *option*, by its current name or by that of hi-ml."""
    shape = shapes()[words]
    known = {normalized(name.lstrip("-")) for each in shape.options for name in (*each.names, *each.off_names)}
    return normalized(option.lstrip("-")) in known


def himl_commands(text: str) -> list[str]:
    """Each `himl …` in the sentences, tables and shell blocks of *text*, without the rest of its shell line."""
    said = [" ".join(command.split()) for command in re.findall(r"`(himl [^`]+)`", without_blocks(text))]
    shell = "\n".join((*blocks(text, "sh"), *blocks(text, "console"))).replace("\\\n", " ")
    inside = re.findall(r"\$\((himl [^)]*)\)", shell)
    return sorted({*said, *inside, *re.findall(r"^(?:\$ )?(himl .*)$", shell, flags=re.MULTILINE)})


def wrong_with(command: str) -> str:
    """The unknown names in a `himl …`, or ''."""
    words = list(_own_words(command))
    depth = max(count for count in range(1, len(words) + 1) if " ".join(words[:count]) in shapes())
    found = " ".join(words[:depth])
    if shapes()[found].children and words[depth:] and not words[depth].startswith("-"):
        return f"there is no command '{found} {words[depth]}'"
    options = [word.partition("=")[0] for word in words[depth:] if re.match(r"--?[A-Za-z]", word)]
    unknown = [option for option in options if option not in ("--help", "--version") and not accepts(found, option)]
    return f"'{found}' has no {' and no '.join(unknown)}" if unknown else ""


def _own_words(command: str) -> Iterator[str]:
    for word in shlex.split(command, comments=True):
        if word in BEHIND:
            return
        yield word


FOLDER = Path(__file__).parents[1] / "golden"


def check_golden(name: str, found: dict[str, Any]) -> None:
    """Compare *found* with the JSON file *name*, or write that file."""
    path = FOLDER / name
    if os.environ.get("HIML_TEST_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


SUBMIT = "himl submit"

COMMANDS = (
    *(
        "himl-tb",
        "himl-download",
        "himl-runner",
        "hi-ml-runner",
        "runner.py",
        "create_montage.py",
        "generate_checkpoint_url.py",
        "modify_checkpoint.py",
    ),
    *(
        "girder.py",
        "amlt",
        "aggregate_metrics_crossvalidation.py",
        "mount_azure_dataset.py",
        "tcga_dataset_prep.py",
        "tiling.py",
        "train.py",
    ),
    *("kickoff_train_pipeline.py", "cancel_run.py", "AmlRunScriptConfig"),
)
OPTIONS = {
    "### himl-tb": (
        "himl tb",
        "experiment experiment_name run run_ids run_recovery_ids num_runs tags latest_run_file config_file "
        "config_path log_dir run_logs_dir port",
    ),
    "### himl-download": (
        "himl download",
        "experiment experiment_name run run_ids run_recovery_ids num_runs tags latest_run_file config_file "
        "config_path output_dir prefix files_to_download",
    ),
    "### girder.py": (
        "himl dsa upload",
        "run_id dsa_url dsa_key workspace_config overwrite_csv dry_run max_slides id_filter login_only "
        "no_rescale colormap folder split search_mode",
    ),
    "### himl-runner": (
        SUBMIT,
        "model cluster num_nodes conda_env experiment tag azure_datasets mount_in_azureml crossval_count "
        "different_seeds random_seed src_checkpoint "
        "resume_training log_from_vm run_inference_only mode max_epochs batch_size tune_encoder "
        "max_run_duration docker_shm_size wait_for_completion "
        "workspace_config_path strictly_aml_v1 pretraining_run_recovery_id ssl_checkpoint freeze_encoder "
        "pool_type is_debug_model num_epochs drop_last "
        "use_balanced_binary_loss_for_linear_head ssl_… linear_head_… azure_dataset_id "
        "extra_azure_dataset_ids local_dataset "
        "pl_fast_dev_run pl_limit_train_batches pl_limit_val_batches pl_limit_test_batches pl_profiler",
    ),
}
"""The options that hi-ml's documents name, by the section of the page, with the command that takes their place."""
ONLY_LINKED = {
    "himl montage": "dataset datastore cluster conda_env image_glob_pattern level width parallel backend output_path "
    "include_by_slide_id exclude_by_slide_id "
    "wait_for_completion docker_shm_size workspace_config_path display_name",
    "himl checkpoint url": "expiry_days workspace_config_path",
}
"""Options of hi-ml's programs that are all the same, of which other pages have the table."""
CONTAINER = (
    "create_model get_data_module azure_datasets local_datasets max_epochs get_trainer_arguments "
    "get_eval_data_module get_parameter_tuning_args "
    "outputs_folder health_ml.configs HelloWorld HelloContainer"
)
HEALTH_ML = (
    *(
        "AzureMLLogger",
        "log_on_epoch",
        "log_learning_rate",
        "AzureMLProgressBar",
        "BatchTimeCallback",
        "LightningContainer",
        "Runner",
        "TrainingRunner",
    ),
    *(
        "CheckpointParser",
        "MODEL_WEIGHTS_DIR_NAME",
        "get_latest_recovery_checkpoint",
        "RunnerBase",
        "ExperimentConfig",
        "TrainerParams",
    ),
    *(
        "additional_run_tags",
        "additional_environment_variables",
        "is_crossval_disabled_or_child_0",
        "set_model_to_eval_mode",
        "health_ml_package_setup",
    ),
)
INNEREYE_FUNCTIONS = (
    "additional_run_tags create_dataset_configs create_experiment_name create_runner_parser get_git_tags "
    "parse_args_and_add_yaml_variables parse_arguments "
    "run_duration_string_to_seconds set_environment_variables_for_multi_node AzureConfig GitInformation "
    "ParserResult SourceConfig fetch_run get_workspace "
    "get_service_principal_auth download_run_output_file download_run_outputs_by_prefix fetch_child_runs "
    "fetch_runs get_all_environment_files "
    "get_comparison_baseline_paths get_cross_validation_split_index get_run_context_or_default "
    "is_cross_validation_child_run is_ensemble_run "
    "is_offline_run_context is_parent_run is_running_on_azure_agent split_recovery_id step_up_directories "
    "strip_prefix tag_values_all_distinct "
    "to_azure_friendly_container_path to_azure_friendly_string value_to_string SecretsHandling "
    "read_all_settings read_settings_and_merge "
    "read_settings_yaml_file from_yaml validate get_git_information get_secret_from_environment "
    "get_secrets_from_environment_or_file read_secrets_from_file"
)
INNEREYE_SETTINGS: Mapping[str, object] = {
    "subscription_id": "00000000-0000-4000-8000-000000000002",
    **{
        name: name
        for name in (
            "resource_group",
            "workspace_name",
            "tenant_id",
            "application_id",
            "application_key",
            "cluster",
            "azureml_datastore",
        )
    },
    **{
        name: name
        for name in (
            "experiment_name",
            "datasets_storage_account",
            "datasets_container",
            "datasets_account_key",
            "run_recovery_id",
            "tag",
        )
    },
    **{
        f"build_{name}": name
        for name in (
            "branch",
            "number",
            "source_author",
            "source_id",
            "source_message",
            "source_repository",
            "user",
            "user_email",
        )
    },
    **{name: name for name in ("model", "pytest_mark", "log_level", "extra_code_directory", "project_root")},
    **dict.fromkeys(
        (
            "wait_for_completion",
            "use_dataset_mount",
            "hyperdrive",
            "tensorboard",
            "azureml",
            "train",
            "only_register_model",
        ),
        True,
    ),
    **dict.fromkeys(("num_nodes", "node_count", "workers_per_node"), 3),
    "docker_shm_size": "440g",
    "pip_extra_index_url": "https://index.example/simple",
    "max_run_duration": "3d",
}
"""Every key of InnerEye's settings files and of its `AzureConfig`, with a value."""
DEEPSEISMIC_SETTINGS: Mapping[str, object] = {
    "SUBSCRIPTION_ID": "00000000-0000-4000-8000-000000000002",
    **{
        name: name.lower()
        for name in ("RESOURCE_GROUP", "WORKSPACE_NAME", "AML_COMPUTE_CLUSTER_NAME", "AML_COMPUTE_CLUSTER_SKU")
    },
    **{f"AML_COMPUTE_CLUSTER_{name}_NODES": 1 for name in ("MIN", "MAX")},
    **{f"BLOB_{name}": name.lower() for name in ("ACCOUNT_NAME", "CONTAINER_NAME", "ACCOUNT_KEY", "SUB_ID")},
}

"""himl: run training scripts here or on Azure ML, and get their results back.

What scripts import from here is listed in `__init__.pyi` and described in docs/python.md; each name is imported when it
is first asked for, so that `import himl_cli` costs nothing.
"""

__version__ = "0.1.0"

_HOMES = {
    "AzureRunInfo": "api.submitting.run_info",
    "CheckpointParser": "api.checkpoint_parser",
    "DatasetConfig": "api.submitting.dataset_config",
    "Datastore": "api.datastore",
    "Experiment": "api.experiment",
    "EARLY_TERMINATION_ARG": "api.submitting.hyperparam_args",
    "GOAL_ARG": "api.submitting.hyperparam_args",
    "HimlError": "core.errors",
    "MAX_CONCURRENT_TRIALS_ARG": "api.submitting.hyperparam_args",
    "MAX_TOTAL_TRIALS_ARG": "api.submitting.hyperparam_args",
    "MODEL_WEIGHTS_DIR_NAME": "api.checkpoint_parser",
    "PARAM_SAMPLING_ARG": "api.submitting.hyperparam_args",
    "PRIMARY_METRIC_ARG": "api.submitting.hyperparam_args",
    "RUN_CONTEXT": "api.run_context",
    "Run": "api.run",
    "SAMPLING_ALGORITHM_ARG": "api.submitting.hyperparam_args",
    "Workspace": "api.workspace",
    "aggregate_hyperdrive_metrics": "api.aggregation",
    "checkpoint": "api.checkpoint_parser",
    "checkpoint_url": "api.checkpoints",
    "create_aml_run_object": "api.new_run",
    "create_crossval_hyperdrive_config": "api.submitting.hyperdrive_config",
    "create_crossval_hyperparam_args_v2": "api.submitting.hyperdrive_config",
    "create_grid_hyperdrive_config": "api.submitting.hyperdrive_config",
    "create_grid_hyperparam_args_v2": "api.submitting.hyperdrive_config",
    "create_run_recovery_id": "api.runs",
    "download_checkpoints_from_run_id": "api.files",
    "download_files_from_hyperdrive_children": "api.hyperdrive_children",
    "download_files_from_run_id": "api.files",
    "download_from_datastore": "api.files",
    "fetch_checkpoint": "api.checkpoints",
    "fetch_run": "api.runs",
    "get_metrics_for_hyperdrive_run": "api.hyperdrive_children",
    "get_metrics_for_run": "api.hyperdrive_children",
    "get_most_recent_run": "api.runs",
    "get_most_recent_run_id": "api.runs",
    "get_tags_from_hyperdrive_run": "api.hyperdrive_children",
    "get_workspace": "api.configured",
    "is_local_rank_zero": "api.ranks",
    "is_running_in_azure_ml": "api.runs",
    "push_checkpoints": "api.checkpoints",
    "set_environment_variables_for_multi_node": "api.multi_node",
    "split_recovery_id": "api.runs",
    "submit_to_azure_if_needed": "api.submitting.if_needed",
    "torch_barrier": "api.ranks",
    "upload_to_datastore": "api.files",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'", name=name, obj=None)
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

"""himl: run training scripts locally, by SSH, on Slurm or on Azure ML, and get their results.

`__init__.pyi` lists the public names, and docs/python.md describes them. The first use of a name imports its module, so
`import himl_cli` is fast.
"""

__version__ = "0.2.0"

_HOMES = {
    "AzureRunInfo": "api.submit_if_needed",
    "CheckpointParser": "api.checkpoints",
    "DatasetConfig": "api.submit_if_needed",
    "Datastore": "api.workspace",
    "Experiment": "api.workspace",
    "EARLY_TERMINATION_ARG": "api.hyperdrive",
    "GOAL_ARG": "api.hyperdrive",
    "HimlError": "core.errors",
    "MAX_CONCURRENT_TRIALS_ARG": "api.hyperdrive",
    "MAX_TOTAL_TRIALS_ARG": "api.hyperdrive",
    "MODEL_WEIGHTS_DIR_NAME": "api.checkpoints",
    "PARAM_SAMPLING_ARG": "api.hyperdrive",
    "PRIMARY_METRIC_ARG": "api.hyperdrive",
    "RUN_CONTEXT": "api.context",
    "RUN_RECOVERY_FILE": "api.run_functions",
    "Run": "api.workspace",
    "SAMPLING_ALGORITHM_ARG": "api.hyperdrive",
    "Workspace": "api.workspace",
    "aggregate_hyperdrive_metrics": "api.run_functions",
    "checkpoint": "api.checkpoints",
    "checkpoint_url": "api.checkpoints",
    "create_aml_run_object": "api.context",
    "create_crossval_hyperdrive_config": "api.hyperdrive",
    "create_crossval_hyperparam_args_v2": "api.hyperdrive",
    "create_grid_hyperdrive_config": "api.hyperdrive",
    "create_grid_hyperparam_args_v2": "api.hyperdrive",
    "create_run_configuration": "api.health_azure",
    "create_run_recovery_id": "api.run_functions",
    "create_script_run": "api.health_azure",
    "download_checkpoints_from_run_id": "api.transfer",
    "download_files_from_hyperdrive_children": "api.run_functions",
    "download_files_from_run_id": "api.transfer",
    "download_from_datastore": "api.transfer",
    "fetch_checkpoint": "api.checkpoints",
    "fetch_run": "api.run_functions",
    "get_datastore": "api.workspace",
    "get_metrics_for_hyperdrive_run": "api.run_functions",
    "get_metrics_for_run": "api.run_functions",
    "get_most_recent_run": "api.run_functions",
    "get_most_recent_run_id": "api.run_functions",
    "get_tags_from_hyperdrive_run": "api.run_functions",
    "get_workspace": "api.workspace",
    "health_azure_package_setup": "api.health_azure",
    "is_local_rank_zero": "api.distributed",
    "is_running_in_azure_ml": "api.run_functions",
    "object_to_yaml": "api.health_azure",
    "push_checkpoints": "api.checkpoints",
    "register_environment": "api.health_azure",
    "set_environment_variables_for_multi_node": "api.distributed",
    "set_logging_levels": "api.health_azure",
    "split_recovery_id": "api.run_functions",
    "submit": "submission",
    "submit_run": "api.health_azure",
    "submit_to_azure_if_needed": "api.submit_if_needed",
    "torch_barrier": "api.distributed",
    "upload_to_datastore": "api.transfer",
    "write_yaml_to_object": "api.health_azure",
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

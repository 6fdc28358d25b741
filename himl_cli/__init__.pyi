from himl_cli.api.checkpoints import MODEL_WEIGHTS_DIR_NAME as MODEL_WEIGHTS_DIR_NAME
from himl_cli.api.checkpoints import CheckpointParser as CheckpointParser
from himl_cli.api.checkpoints import checkpoint as checkpoint
from himl_cli.api.checkpoints import checkpoint_url as checkpoint_url
from himl_cli.api.checkpoints import fetch_checkpoint as fetch_checkpoint
from himl_cli.api.checkpoints import push_checkpoints as push_checkpoints
from himl_cli.api.context import RUN_CONTEXT as RUN_CONTEXT
from himl_cli.api.context import create_aml_run_object as create_aml_run_object
from himl_cli.api.distributed import is_local_rank_zero as is_local_rank_zero
from himl_cli.api.distributed import (
    set_environment_variables_for_multi_node as set_environment_variables_for_multi_node,
)
from himl_cli.api.distributed import torch_barrier as torch_barrier
from himl_cli.api.health_azure import create_run_configuration as create_run_configuration
from himl_cli.api.health_azure import create_script_run as create_script_run
from himl_cli.api.health_azure import health_azure_package_setup as health_azure_package_setup
from himl_cli.api.health_azure import object_to_yaml as object_to_yaml
from himl_cli.api.health_azure import register_environment as register_environment
from himl_cli.api.health_azure import set_logging_levels as set_logging_levels
from himl_cli.api.health_azure import submit_run as submit_run
from himl_cli.api.health_azure import write_yaml_to_object as write_yaml_to_object
from himl_cli.api.hyperdrive import EARLY_TERMINATION_ARG as EARLY_TERMINATION_ARG
from himl_cli.api.hyperdrive import GOAL_ARG as GOAL_ARG
from himl_cli.api.hyperdrive import MAX_CONCURRENT_TRIALS_ARG as MAX_CONCURRENT_TRIALS_ARG
from himl_cli.api.hyperdrive import MAX_TOTAL_TRIALS_ARG as MAX_TOTAL_TRIALS_ARG
from himl_cli.api.hyperdrive import PARAM_SAMPLING_ARG as PARAM_SAMPLING_ARG
from himl_cli.api.hyperdrive import PRIMARY_METRIC_ARG as PRIMARY_METRIC_ARG
from himl_cli.api.hyperdrive import SAMPLING_ALGORITHM_ARG as SAMPLING_ALGORITHM_ARG
from himl_cli.api.hyperdrive import create_crossval_hyperdrive_config as create_crossval_hyperdrive_config
from himl_cli.api.hyperdrive import create_crossval_hyperparam_args_v2 as create_crossval_hyperparam_args_v2
from himl_cli.api.hyperdrive import create_grid_hyperdrive_config as create_grid_hyperdrive_config
from himl_cli.api.hyperdrive import create_grid_hyperparam_args_v2 as create_grid_hyperparam_args_v2
from himl_cli.api.run_functions import RUN_RECOVERY_FILE as RUN_RECOVERY_FILE
from himl_cli.api.run_functions import aggregate_hyperdrive_metrics as aggregate_hyperdrive_metrics
from himl_cli.api.run_functions import create_run_recovery_id as create_run_recovery_id
from himl_cli.api.run_functions import (
    download_files_from_hyperdrive_children as download_files_from_hyperdrive_children,
)
from himl_cli.api.run_functions import fetch_run as fetch_run
from himl_cli.api.run_functions import get_metrics_for_hyperdrive_run as get_metrics_for_hyperdrive_run
from himl_cli.api.run_functions import get_metrics_for_run as get_metrics_for_run
from himl_cli.api.run_functions import get_most_recent_run as get_most_recent_run
from himl_cli.api.run_functions import get_most_recent_run_id as get_most_recent_run_id
from himl_cli.api.run_functions import get_tags_from_hyperdrive_run as get_tags_from_hyperdrive_run
from himl_cli.api.run_functions import is_running_in_azure_ml as is_running_in_azure_ml
from himl_cli.api.run_functions import split_recovery_id as split_recovery_id
from himl_cli.api.submit_if_needed import AzureRunInfo as AzureRunInfo
from himl_cli.api.submit_if_needed import DatasetConfig as DatasetConfig
from himl_cli.api.submit_if_needed import submit_to_azure_if_needed as submit_to_azure_if_needed
from himl_cli.api.transfer import download_checkpoints_from_run_id as download_checkpoints_from_run_id
from himl_cli.api.transfer import download_files_from_run_id as download_files_from_run_id
from himl_cli.api.transfer import download_from_datastore as download_from_datastore
from himl_cli.api.transfer import upload_to_datastore as upload_to_datastore
from himl_cli.api.workspace import Datastore as Datastore
from himl_cli.api.workspace import Experiment as Experiment
from himl_cli.api.workspace import Run as Run
from himl_cli.api.workspace import Workspace as Workspace
from himl_cli.api.workspace import get_datastore as get_datastore
from himl_cli.api.workspace import get_workspace as get_workspace
from himl_cli.core.errors import HimlError as HimlError
from himl_cli.submission import submit as submit

__version__: str
__all__: list[str]

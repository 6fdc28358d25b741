"""The names of all targets: the list of cases is asked for often, and the parsers take a second to import."""

from __future__ import annotations

_GROUPS = {
    "typed": (
        "reference recovery_id studio_url workspace_id call space early_stop sampling input output duration size "
        "pip_line pattern checkpoint_rank checkpoint_name storage_uri redaction address sweep filters ignore_rules "
        "file_name pairs count status"
    ),
    "files": (
        "settings settings_of_submit settings_of_azure pyproject yaml job prepared_job component dotenv "
        "pipeline_variables innereye conda requirements python_version ids latest_run toml_values job_values "
        "component_values conda_values innereye_values config pipeline table complaint"
    ),
    "wire": "time wait sas md5 size status challenge hyperparameters head listing level storage_error failure token json number sweep_tags workspace",
    "state": "transfer workspace rows run_records order note logged kept checkpoint brought script search_filter search_order request",
    "slides": "tiff picture stored_size",
    "replies": (
        "runs runs_of_experiment children run tag cancel metrics values parameters results run_files output_files datastores datastore has_cluster describe"
    ),
}
TARGETS = tuple(f"{group}/{name}" for group, names in _GROUPS.items() for name in names.split())

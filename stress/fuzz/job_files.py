"""Parsers of files that describe jobs and pipelines, and of what the SDK complains of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
from himl_cli.services.submission.job_yaml_file import read_document
from himl_cli.services.submission.pipeline_file import read_pipeline
from himl_cli.services.submission.pipelines import prepare_pipeline
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.yaml_files import dump_mapping, parse_mapping
from himl_cli.workspaces.azure.jobs.sdk import complaint_of
from stress.fuzz.file_targets import Row, text_targets, values_target
from stress.fuzz.strategies import json_files, json_texts, texts
from stress.fuzz.target import Target, written

COMMAND = (
    "$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json\ntype: command\ncommand: >-\n"
    "  python train.py --lr ${{inputs.lr}} $[[--x ${{inputs.x}}]]\n"
    "code: .\nenvironment: azureml:env@latest\ncompute: local\nexperiment_name: exp\ntags: {a: b, n: 1}\ninputs:\n"
    "  lr: 0.1\n  data: {type: uri_folder, path: ./data}\n"
    "outputs:\n  out: {type: uri_folder, path: ./out, mode: rw_mount}\nenvironment_variables: {A: '1'}\nlimits: {timeout: 3600}\n"
    "resources: {instance_count: 1, shm_size: 8g}\ndistribution: {type: pytorch, process_count_per_instance: 2}\n"
)
SWEEP = (
    "type: sweep\ntrial:\n  command: python train.py --lr ${{search_space.lr}}\n  code: .\n"
    "sampling_algorithm: {type: random, seed: 3}\nobjective: {goal: minimize, primary_metric: loss}\n"
    "search_space:\n  lr: {type: uniform, min_value: 0.1, max_value: 1}\n  n: {type: choice, values: [1, 2]}\n  k: {type: qlognormal, mu: 0, sigma: 1, q: 2}\n"
    "limits: {max_total_trials: 4, max_concurrent_trials: 2, timeout: 7200}\nearly_termination: {type: bandit, slack_factor: 0.1, evaluation_interval: 2}\n"
)
COMPONENT = (
    "type: command\nname: c\nversion: 1\ninputs:\n  x: {type: integer, default: 3, optional: true, min: 1}\n  y: {type: string, default: a}\n"
    "outputs:\n  o: {type: uri_folder, mode: rw_mount}\ncode: .\nenvironment: azureml:env@latest\n"
    "command: python train.py --x ${{inputs.x}} --y ${{inputs.y}} --o ${{outputs.o}}\n"
)
PIPELINE_JOB = (
    "type: pipeline\nsettings: {default_compute: azureml:local}\ninputs: {x: 3}\njobs:\n  one: &one\n"
    "    command: python train.py ${{inputs.x}} ${{outputs.o}}\n    code: .\n"
    "    inputs: {x: '${{parent.inputs.x}}'}\n    outputs: {o: {type: uri_folder}}\n  two:\n    <<: *one\n"
    "    inputs: {x: '${{parent.jobs.one.outputs.o}}'}\noutputs: {all: {}}\n"
)
JOBS = (COMMAND, SWEEP, PIPELINE_JOB)
JOB_WORDS: tuple[str, ...] = (
    "type: ",
    "command: ",
    "trial:",
    "jobs:",
    "inputs:",
    "outputs:",
    "${{inputs.lr}}",
    "${{parent.jobs.one.outputs.o}}",
    "$[[",
    "]]",
    "!!binary ",
    "!!set ",
    "!!timestamp ",
)
JOB_WORDS += (
    "&a ",
    "*a",
    "<<: *one",
    "|-\n",
    ">\n",
    "? ",
    "!!python/name:os ",
    "2026-11-20",
    "0b1",
    "1:30:00",
    "azureml:",
    "component: ./c.yml\n",
    "path: ",
    "compute: gpu\n",
    "---\n",
)
STEPS: dict[str, Any] = {
    "step1": {
        "type": "PythonScriptStep",
        "script": "train.py",
        "source_directory": ".",
        "arguments": ["--a", 1, "b c"],
        "name": "one",
        "output": "o",
        "node_count": 1,
    },
    "step2": {"type": "MpiStep", "script": "train.py", "source_directory": ".", "arguments": "--b 'x y' --input", "node_count": "2", "processes_per_node": 2}
    | {
        "input_datareference_path": "a/b",
        "input_datareference_name": "d",
        "input_dataset_name": "i",
        "requirements": "requirements.txt",
        "base_image": "img",
        "output_path": "p",
    },
}
COMPLAINT = {"result": "Failed", "errors": [{"message": "Not a valid integer.", "path": "resources.instance_count", "value": "x"}], "_schema": ["a"]}
SAID = (
    'Validation for JobSchema failed:\n\n {"errors": [{"message": "Not a valid integer.", "path": "a.b"}]} \n\nadvice',
    "(x) compute:\n- is not set\n\n1) do this",
    "\x1b[31mNo such file or directory: 'a/b'\x1b[0m",
)


def _yaml(content: bytes) -> None:
    found = parse_mapping(content.decode("utf-8", "replace"), Path("job.yml"))
    assert parse_mapping(dump_mapping(found), Path("again.yml")).keys() == found.keys(), found


def _document(content: bytes) -> None:
    read_document(written("job.yml", content), "job.yml").compute.strip()


def _prepared(content: bytes) -> None:
    _project()
    written("job.yml", content)
    changed_yaml(prepare_document(SubmitRequest(cwd=Path.cwd(), target="job.yml"), {}))


def _component(content: bytes) -> None:
    _project()
    written("c.yml", content)
    written("job.yml", b"type: pipeline\njobs:\n  one: {type: command, component: ./c.yml, inputs: {x: 1}}\n")
    changed_yaml(prepare_document(SubmitRequest(cwd=Path.cwd(), target="job.yml"), {}))


def _pipeline(content: bytes) -> None:
    _project()
    written("requirements.txt", b"numpy\n")
    path = written("pipeline.json", content)
    read_pipeline(path, path.name)
    prepare_pipeline(SubmitRequest(cwd=Path.cwd(), target=path.name), {})


def _said(text: str) -> None:
    said = complaint_of(text)
    assert "\n" not in said, said


def _project() -> None:
    if not Path("train.py").exists():
        written("train.py", b"print(1)\n")
        written("data/a.txt", b"1")


TEXT_FILES: Sequence[Row] = (
    ("yaml", _yaml, JOBS, JOB_WORDS, (BadUsage,)),
    ("job", _document, JOBS, JOB_WORDS, (BadUsage,)),
    ("prepared_job", _prepared, JOBS, JOB_WORDS, (BadUsage,)),
    ("component", _component, (COMPONENT,), JOB_WORDS, (BadUsage,)),
)


def targets() -> list[Target]:
    return [
        *text_targets(TEXT_FILES),
        values_target("job", _prepared, JOBS),
        values_target("component", _component, (COMPONENT,)),
        Target("files/pipeline", lambda: json_files([STEPS]), _pipeline),
        Target("files/complaint", lambda: st.one_of(texts(SAID), json_texts([COMPLAINT]).map(lambda text: f"Validation for X: {text}")), _said, ()),
    ]

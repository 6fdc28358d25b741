"""What people and programs write, as broken as it can be: every parser of it stands."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himl_cli.app import loaded
from himl_cli.commands.scripts import check_variables, submit_settings
from himl_cli.core import redaction
from himl_cli.core.jobs import HYPERPARAMETERS, hyperparameters_of
from himl_cli.core.settings import section_settings
from himl_cli.core.text import NotJson, read_json
from himl_cli.core.workspaces import parse_workspace_id
from himl_cli.services.checkpoints.names import below_folder, is_whole, parse_name, rank_of
from himl_cli.services.montage.query import Pattern, read_ids, read_table
from himl_cli.services.project_setup import read_deepseismic, read_innereye
from himl_cli.services.runs.lookup import is_studio_url, parse_reference, read_latest_run_file, split_recovery_id, workspace_in_url
from himl_cli.services.runs.mirror_state import MirrorFile
from himl_cli.services.submission.data import parse_data
from himl_cli.services.submission.environment import parse_conda_package, parse_pip_line, read_conda_file
from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
from himl_cli.services.submission.job_yaml_file import read_document
from himl_cli.services.submission.pipeline_file import read_pipeline
from himl_cli.services.submission.request import SubmitRequest, check_size, parse_duration
from himl_cli.services.submission.sweeps import parse_call, parse_early_stop, parse_sampling, parse_space
from himl_cli.services.transfer.local_files import UnsafeName, safe_relative
from himl_cli.services.yaml_files import dump_mapping, parse_mapping
from himl_cli.workspaces.azure.config import address_from_config, names_workspace
from himl_cli.workspaces.local.logged_values import read_logged_files, read_texts
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, RunFolder
from tests.support.hostile_texts import DAMAGED, framed, garbage, naming, stands


@dataclass(frozen=True)
class Target:
    """A parser of texts; `frames` have `@` where the nasty text goes, `signs` are those that mean something to it."""

    parse: Callable[[str], object]
    frames: tuple[str, ...] = ("@",)
    signs: str = "a1,.=:/ "


@dataclass(frozen=True)
class FileTarget:
    """A parser of a file of this name; it gets the folder, in which the file lies. Long texts are left out where another target takes them."""

    parse: Callable[[Path], object]
    file: str
    frames: tuple[str, ...] = ("@",)
    signs: str = "a1,.=:/ "
    takes_long: bool = True


def safe_name(name: str) -> None:
    for windows in (False, True):
        try:
            safe_relative(name, windows=windows)
        except UnsafeName:
            continue


def yaml_twice(text: str) -> None:
    dump_mapping(parse_mapping(text, Path("a.yml")))


def prepared(folder: Path) -> None:
    document = prepare_document(SubmitRequest(cwd=folder, target="job.yml"), {})
    changed_yaml(document)


SUBMIT: Any = loaded("submit")


def address(text: str) -> None:
    for ask in (redaction.is_address, redaction.is_botched_address, redaction.parts_of, redaction.shown, redaction.identity, redaction.last_name):
        ask(text)
    assert 0 < len(redaction.safe_name(text).encode()) <= 4 * redaction.LONGEST_NAME + 1


def json_of(text: str) -> None:
    with suppress(NotJson):
        read_json(text)


CALLS = ("@", "x=@", "x=uniform(@)", "x=uniform(0,@)", "x=randint(@)", "x=loguniform(@,1)", "x=quniform(0,1,@)", "x=choice(1,@)", "@=1")
TEXTS: dict[str, Target] = {
    "JSON": Target(json_of, ("@", '{"a": @}', '["@"]'), '[]{}":,1e-\\u'),
    "YAML": Target(yaml_twice, ("@", "a: !!int @", "@: !!binary @", "a: &b @\nc: *b", "<<: @"), "[]{}:&*<!|>-? \n'\"#"),
    "sweeps": Target(lambda text: parse_space([text]), CALLS, "x=()[],\"'.0123456789e-"),
    "early stops": Target(parse_early_stop, ("@", "bandit(slack_factor=@)", "truncation(truncation_percentage=@)", "median(evaluation_interval=@)"), "()=,1.e"),
    "samplings": Target(parse_sampling, ("@", "random(seed=@)", "grid(@)"), "()=,1.e"),
    "calls": Target(parse_call, ("@", "a(@)", "a(b=@)"), "a()=,\"'"),
    "hyperparameters": Target(lambda text: hyperparameters_of({HYPERPARAMETERS: text}), ("@", '{"a": @}'), '[]{}":,1'),
    "references": Target(parse_reference, ("@", "a:@", "https://ml.azure.com/runs/@", "https://@/runs/a")),
    "recovery ids": Target(split_recovery_id, ("@", "a_@", "a_1_@", "@_1")),
    "Studio": Target(is_studio_url, ("@", "https://ml.azure.com/?wsid=@", "https://@")),
    "workspaces in addresses": Target(workspace_in_url, ("@", "https://ml.azure.com/?wsid=/subscriptions/@/resourcegroups/@/workspaces/@"), "/?&=%[]"),
    "workspace ids": Target(parse_workspace_id, ("@", "/subscriptions/@/resourceGroups/@", "/subscriptions/" * 50 + "@")),
    "addresses": Target(address, ("@", "https://@", "https://a/?@=@", "https://a:@/b", "http:@"), "hts:/?&=%[]@"),
    "inputs": Target(lambda text: parse_data("input", [text]), ("@", "a=@", "a=b,local=@", "a=b,@=c", "a:@")),
    "outputs": Target(lambda text: parse_data("output", [text]), ("@", "a=@", "a=b,local=@", "a=b,@=c", "a:@")),
    "durations": Target(parse_duration, ("@", "@s", "@d", "1.@h"), "0123456789.smhd"),
    "sizes": Target(lambda text: check_size("--shm_size", text), ("@", "@g"), "0123456789bkmg"),
    "packages of conda": Target(lambda text: parse_conda_package(text, Path("a.yml")), ("@", "a=@", "a::@"), "ab:=<>1.*[ "),
    "lines of pip": Target(lambda text: parse_pip_line(text, "a.yml"), ("@", "a==@", "a[@]", "--@", "a; @", "-e @", "a @ @", "${@"), "ab=<>1.*[];@ -/"),
    "tables": Target(
        lambda text: read_table(text, "a.csv"), ("@", "image,slide_id\n@", "image;slide_id\n@;a", "image,@", "sep=@\nimage,slide_id\na,b"), 'image,sld_;\t"\n'
    ),
    "patterns": Target(lambda text: Pattern(text[:MOST_PATTERN]).matches("a" * 60), ("@", "*a" * 25 + "@", "**/" * 20 + "@", "[@]", "[!@"), "*?[]!-&~|a/^\\"),
    "names of checkpoints": Target(
        rank_of, ("@", "outputs/checkpoints/@", "retry_@/checkpoints/last.ckpt", "outputs/checkpoints/recovery_@.ckpt"), "recovy_=-v19.ckpt"
    ),
    "places of checkpoints": Target(below_folder, ("@", "outputs/retry_@/checkpoints/a")),
    "what names of checkpoints tell": Target(parse_name, ("@", "epoch=@", "epoch=1-loss=@-v1.ckpt", "a-v@.ckpt", "best_@", "step @"), "epoch=-v19._.ckptbest"),
    "a variable that is a number": Target(lambda text: check_variables(SUBMIT, {"HIML_SUBMIT_NUM_NODES": text})),
    "a variable that is a switch": Target(lambda text: check_variables(SUBMIT, {"HIML_SUBMIT_WAIT": text})),
    "names of files": Target(safe_name, ("@", "a/@", "@/a", "C:@")),
}
MOST_PATTERN = 1000

STEP = '{"step1": {"type": "PythonScriptStep", "script": "a.py", "source_directory": ".", '
JOB = "type: command\ncommand: python a.py\n"
SWEEP = JOB.replace("command\n", "sweep\n", 1).replace("command: python a.py", "trial: {command: python a.py}\nobjective: {primary_metric: a, goal: minimize}")
FILES: dict[str, FileTarget] = {
    "settings": FileTarget(
        lambda folder: [section_settings(folder, name) for name in ("submit", "azure", "montage")],
        "himl.toml",
        ("@", "[submit]\ncluster = @", "[submit]\n@ = 1", "[@]", "[[submit]]\na = '''@", "submit.@ = 1", 'a = {b = "@"}'),
        "[]{}=.\"'#\n1e_tsubmi",
    ),
    "settings of submit": FileTarget(
        lambda folder: submit_settings(SUBMIT, folder),
        "himl.toml",
        ("[submit]\ncluster = '@'", "[submit]\nnum_nodes = @", "[submit]\ntag = {a = @}", "[submit]\nsweep.lr = [@]", "[submit]\nwait = @", "[submit]\n@ = 1"),
        "[]{}=.\"'#\n1e_",
    ),
    "pyproject": FileTarget(lambda folder: section_settings(folder, "submit"), "pyproject.toml", ("@", "[tool.himl.submit]\ncluster = @", "tool.himl.@ = 1")),
    "config.json": FileTarget(
        lambda folder: (names_workspace(folder / "config.json"), address_from_config(folder / "config.json")),
        "config.json",
        ("@", '{"subscription_id": @, "resource_group": "a", "workspace_name": "b"}', '{"Scope": @}', '{"Scope": "@"}'),
        '[]{}":,1\\u',
    ),
    ".env": FileTarget(lambda folder: read_deepseismic(folder / ".env"), ".env", ("@", "A=@", "A=b @ c", "A='@", "export @", "A=' @ ' #"), "A=#'\" \n"),
    "InnerEye": FileTarget(
        lambda folder: read_innereye(folder / "settings.yml", folder),
        "settings.yml",
        ("@", "variables:\n  cluster: @", "variables:\n  num_nodes: @", "variables: @"),
        takes_long=False,
    ),
    "job YAML": FileTarget(
        lambda folder: read_document(folder / "job.yml", "job.yml"), "job.yml", ("@", "type: @", "$schema: @", "jobs: {a: {compute: @}}"), takes_long=False
    ),
    "commands of jobs": FileTarget(prepared, "job.yml", tuple(JOB.replace("a.py", text) for text in ("'@", "$[[@]] ${{inputs.@}}")), "${}[]'\"\\ \n"),
    "prepared jobs": FileTarget(
        prepared,
        "job.yml",
        (
            *(
                JOB + text
                for text in ("limits: {timeout: @}", "resources: {instance_count: @}", "inputs: {a: @}", "tags: {a: @}", "environment_variables: {a: @}")
            ),
            *(JOB + text for text in ("outputs: {a: {path: '@'}}", "inputs: {a: {path: '@'}}", "distribution: {type: pytorch, process_count_per_instance: @}")),
            *(SWEEP + text for text in ("search_space: {a: {type: choice, values: [@]}}", "search_space: {a: {type: randint, upper: @}}")),
            SWEEP + "search_space: {a: {type: choice, values: [1]}}\nsampling_algorithm: {type: random, seed: @}\nlimits: {max_total_trials: 2}",
            SWEEP + "search_space: {a: {type: choice, values: [1]}}\nlimits: {max_total_trials: @}",
        ),
        "[]{}:&*<!|>-? \n'\"#$",
        takes_long=False,
    ),
    "pipelines": FileTarget(
        lambda folder: read_pipeline(folder / "a.json", "a.json"),
        "a.json",
        (
            "@",
            '{"step1": @}',
            STEP + '"arguments": @}}',
            STEP + '"arguments": "@"}}',
            STEP + '"node_count": @}}',
            STEP + '"node_count": "@"}}',
            STEP + '"@": 1}}',
        ),
        '[]{}":,1\\ustep',
    ),
    "environments": FileTarget(
        lambda folder: read_conda_file(folder / "a.yml"),
        "a.yml",
        ("@", "dependencies: [@]", "dependencies: [pip: ['@']]", "dependencies: []\nvariables: {a: @}"),
        takes_long=False,
    ),
    "lists of ids": FileTarget(
        lambda folder: read_ids(folder / "ids.csv", "--include_by_slide_id"), "ids.csv", ("@", "slide_id\n@", "slide_id,a\n@"), 'slide_id,;\t"\n'
    ),
    "the latest run": FileTarget(lambda folder: read_latest_run_file(folder / "most_recent_run.txt"), "most_recent_run.txt", ("@", "a:@")),
    "notes of recordings": FileTarget(
        lambda folder: MirrorFile(folder, "run").read(),
        "recordings/run.json",
        ("@", '{"run_id": "a", "place": {}, "not_before": @, "runs": {}}', '{"runs": @}'),
    ),
    "records of runs": FileTarget(lambda folder: (RunFolder(folder).read(PLAN), RunFolder(folder).read(RECORD)), "plan.json", ("@", '{"many": @}'), '[]{}":,1'),
    "logged tables": FileTarget(
        lambda folder: (read_logged_files(folder, lambda name: True), list(read_texts(folder, "run"))),
        "logged/a.jsonl",
        (
            "@",
            '{"kind": "table", "values": {"a": @}, "step": 1, "time": "2026-01-01"}',
            '{"kind": "scalar", "values": {"a": "x"}, "step": @, "time": "2026-01-01"}',
        ),
        '[]{}":,1\n',
    ),
    "checkpoints": FileTarget(lambda folder: is_whole(folder / "a.safetensors"), "a.safetensors"),
}


def written(folder: Path, target: FileTarget, content: bytes) -> Path:
    path = folder / target.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return folder


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_nasty_text_is_read_or_refused(name: str) -> None:
    for where, text in framed(*TEXTS[name].frames).items():
        with naming(where):
            stands(TEXTS[name].parse, text)


@pytest.mark.parametrize("name", list(FILES))
def test_a_nasty_file_is_read_or_refused(tmp_path: Path, name: str) -> None:
    texts = framed(*FILES[name].frames, takes_long=FILES[name].takes_long)
    for where, content in {**{where: text.encode("utf-8", "surrogatepass") for where, text in texts.items()}, **DAMAGED}.items():
        with naming(where):
            stands(FILES[name].parse, written(tmp_path, FILES[name], content))


@pytest.mark.parametrize("name", list(TEXTS))
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_garbage_is_read_or_refused(name: str, data: st.DataObject) -> None:
    target = TEXTS[name]
    stands(target.parse, data.draw(st.sampled_from(target.frames)).replace("@", data.draw(garbage(target.signs))))


@pytest.mark.parametrize("name", list(FILES))
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_garbage_is_read_or_refused(tmp_path: Path, name: str, data: st.DataObject) -> None:
    target = FILES[name]
    text = data.draw(st.sampled_from(target.frames)).replace("@", data.draw(garbage(target.signs)))
    stands(target.parse, written(tmp_path, target, text.encode("utf-8", "surrogatepass")))

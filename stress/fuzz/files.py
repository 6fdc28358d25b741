"""Parsers of files that users write (settings, jobs and pipelines, environments, lists), and of slides."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from himl_cli.commands.scripts import submit_settings
from himl_cli.commands.table import loaded
from himl_cli.core.errors import BadUsage, HimlError, NotFound
from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.core.settings import SECTIONS, find_settings, section_settings
from himl_cli.services.project_setup import read_deepseismic, read_innereye
from himl_cli.services.runs.lookup import read_latest_run_file
from himl_cli.services.submission import job_yaml, job_yaml_file, pipeline_file, pipelines, request
from himl_cli.services.submission.environment import (
    CondaFile,
    conda_text,
    python_version,
    read_conda_file,
    requirements_as_conda,
)
from himl_cli.services.submission.environment_checks import environment_remarks
from himl_cli.services.submission.lock_files import lock_remarks, read_lock
from himl_cli.services.submission.requirements import parse_pip_line
from himl_cli.services.yaml_files import dump_mapping, parse_mapping
from himl_cli.slides import pictures, query, tiff
from himl_cli.slides.slide_records import Backend, SlideUnreadable
from himl_cli.workspaces.azure.config import PUBLIC, address_from_config, azure_settings, find_config
from himl_cli.workspaces.azure.credentials import principal_source
from himl_cli.workspaces.azure.jobs.sdk import complaint_of
from stress.fuzz.strategies import Target, contents, damaged, documents, json_files, json_texts, texts, written
from tests.support.slides import slide_picture, write_svs, write_tiff

TOML = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
SETTINGS = (
    '# ours\n[submit]\ncluster = "gpu"\nnum_nodes = 2\nwait = true\ntag.team = "blue"\n'
    'sweep.lr = [0.1, 0.01]\nmax_run_duration = "2h"\n\n'
    '[azure]\ntenant_id = "0f0f0f0f-0000-4000-8000-000000000001"\n[montage]\nwidth = 100\n',
    '[submit]\nenv_var = [\'A=b\', "C=d"]\ninput = ["x",\n "y"] # two\nprocesses_per_node = 0x4\n'
    "early_stop = '''\nbandit(slack_factor=0.1)'''\n",
    'submit.cluster = "a"\nsubmit.tag = {a = "b", c = 1979-05-27T07:32:00Z}\n[[azure]]\n',
)
PRIVATE, AZURE = (
    "himl.private.toml",
    ("[azure]\ntenant_id = 't'\nservice_principal_id = 'i'\nservice_principal_password = 'p'\n",),
)
PYPROJECT = (
    '[project]\nname = "x"\n[tool.himl.submit]\ncluster = "gpu"\n[tool.himl.azure]\ntenant_id = "t"\n'
    "[[tool.other]]\na = 1\n",
)
WORDS = (
    "[submit]",
    "[azure]",
    "[tool.himl]",
    "cluster",
    "num_nodes",
    "wait",
    "tag",
    "sweep",
    "true",
    "=",
    "'''",
    '"""',
    "1979-05-27",
    "[[",
    "]]",
    ".",
    "+inf",
)
CONFIG = {"subscription_id": "0f0f0f0f-0000-4000-8000-000000000000", "resource_group": "group", "workspace_name": "ws"}
SCOPE = (
    "/subscriptions/0f0f0f0f-0000-4000-8000-000000000000/resourceGroups/group/providers/"
    "Microsoft.MachineLearningServices/workspaces/ws"
)
DOTENV = (
    "SUBSCRIPTION_ID=0f0f0f0f\nexport RESOURCE_GROUP = 'group' # here\nWORKSPACE_NAME=\"ws\"\n"
    "AML_COMPUTE_CLUSTER_NAME=gpu\nBLOB_ACCOUNT_KEY=x==\nAML_COMPUTE_CLUSTER_MAX_NODES=4\n",
)
DOTENV_WORDS = (
    "SUBSCRIPTION_ID=",
    "export ",
    "AML_COMPUTE_CLUSTER_NAME",
    "AML_COMPUTE_CLUSTER_MAX_NODES=",
    "BLOB_CONTAINER_NAME=",
    "'",
    '"',
    "#",
)
INNEREYE = (
    "variables:\n  tenant_id: 't'\n  subscription_id: s\n  cluster: gpu\n  node_count: 2\n"
    "  wait_for_completion: false\n  application_id: a\n  docker_shm_size: 400g\n",
)


def _settings(content: bytes) -> None:
    written("himl.toml", content)
    find_settings(Path.cwd())
    for section in SECTIONS:
        for setting in section_settings(Path.cwd(), section).values():
            assert setting.line >= 0, setting


def _submit(content: bytes) -> None:
    written("himl.toml", content)
    submit_settings(loaded("submit"), Path.cwd())


def _config(content: bytes) -> None:
    path = written("config.json", content)
    find_config(path.parent)
    address_from_config(path).studio_url("runs/x")


def _pipeline_variables(content: bytes) -> None:
    written(".env", content)
    variables = pipeline_file.pipeline_variables(Path.cwd(), Path.cwd(), {})
    if variables.cluster:
        variables.cluster_spec(variables.cluster, 1, "step1")
    variables.container("data")


def _innereye(content: bytes) -> None:
    read_innereye(written("settings.yml", content), Path.cwd())


LITERALS: tuple[str, ...] = (
    *(
        "1",
        "-1",
        "0.5",
        "1e400",
        "nan",
        "true",
        "'text'",
        '""',
        '"\\u0000"',
        '"\\u001b[31m"',
        "[]",
        "[[]]",
        "['a', 1]",
        "{}",
        "{a = 1}",
    ),
    *(
        "{a = {b = 2}}",
        "1979-05-27",
        "07:32:00",
        "9223372036854775808",
        "0xffff",
        '"""a\nb"""',
        "[{a = 1}]",
        "'a=b'",
        "['a=b', 'c=d']",
    ),
    *("'https://h/a?sig=x'", "1_000", '"٣"'),
)


def _toml() -> st.SearchStrategy[bytes]:
    options = sorted(
        {name for parameter in loaded("submit").params for name in (parameter.name, parameter.name.replace("_", "-"))}
    )
    lines = st.builds(
        "{} = {}".format,
        st.sampled_from(options),
        st.sampled_from(LITERALS) | st.integers().map(str) | st.floats().map(str),
    )
    below = st.builds(
        "{}.{} = {}".format,
        st.sampled_from(options),
        st.sampled_from(["a", '""', '"a b"', "a.b"]),
        st.sampled_from(LITERALS),
    )
    return st.lists(lines | lines | below, min_size=1, max_size=4).map(
        lambda found: "\n".join(["[submit]", *found]).encode()
    )


COMMAND = (
    "$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json\ntype: command\ncommand: >-\n"
    "  python train.py --lr ${{inputs.lr}} $[[--x ${{inputs.x}}]]\n"
    "code: .\nenvironment: azureml:env@latest\ncompute: local\nexperiment_name: exp\ntags: {a: b, n: 1}\ninputs:\n"
    "  lr: 0.1\n  data: {type: uri_folder, path: ./data}\n"
    "outputs:\n  out: {type: uri_folder, path: ./out, mode: rw_mount}\nenvironment_variables: {A: '1'}\n"
    "limits: {timeout: 3600}\n"
    "resources: {instance_count: 1, shm_size: 8g}\ndistribution: {type: pytorch, process_count_per_instance: 2}\n"
)
SWEEP = (
    "type: sweep\ntrial:\n  command: python train.py --lr ${{search_space.lr}}\n  code: .\n"
    "sampling_algorithm: {type: random, seed: 3}\nobjective: {goal: minimize, primary_metric: loss}\n"
    "search_space:\n  lr: {type: uniform, min_value: 0.1, max_value: 1}\n"
    "  n: {type: choice, values: [1, 2]}\n  k: {type: qlognormal, mu: 0, sigma: 1, q: 2}\n"
    "limits: {max_total_trials: 4, max_concurrent_trials: 2, timeout: 7200}\n"
    "early_termination: {type: bandit, slack_factor: 0.1, evaluation_interval: 2}\n"
)
COMPONENT = (
    "type: command\nname: c\nversion: 1\ninputs:\n"
    "  x: {type: integer, default: 3, optional: true, min: 1}\n  y: {type: string, default: a}\n"
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
    *(
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
    ),
    *(
        "!!binary ",
        "!!set ",
        "!!timestamp ",
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
    ),
    *("azureml:", "component: ./c.yml\n", "path: ", "compute: gpu\n", "---\n"),
)
STEP = {"type": "PythonScriptStep", "script": "train.py", "source_directory": ".", "arguments": ["--a", 1, "b c"]}
MPI = {
    "type": "MpiStep",
    "script": "train.py",
    "source_directory": ".",
    "arguments": "--b 'x y' --input",
    "node_count": "2",
    "processes_per_node": 2,
}
MPI |= {
    "input_datareference_path": "a/b",
    "input_datareference_name": "d",
    "input_dataset_name": "i",
    "requirements": "requirements.txt",
}
STEPS = {
    "step1": {**STEP, "name": "one", "output": "o", "node_count": 1},
    "step2": {**MPI, "base_image": "img", "output_path": "p"},
}
COMPLAINT = {
    "result": "Failed",
    "errors": [{"message": "Not a valid integer.", "path": "resources.instance_count", "value": "x"}],
    "_schema": ["a"],
}
FAILED = (
    'Validation for JobSchema failed:\n\n {"errors": [{"message": "Not a valid integer.", "path": "a.b"}]} \n\nadvice'
)
SAID = (FAILED, "(x) compute:\n- is not set\n\n1) do this", "\x1b[31mNo such file or directory: 'a/b'\x1b[0m")


def _yaml(content: bytes) -> None:
    found = parse_mapping(content.decode("utf-8", "replace"), Path("job.yml"))
    assert parse_mapping(dump_mapping(found), Path("again.yml")).keys() == found.keys(), found


def _prepared(content: bytes) -> None:
    _project()
    written("job.yml", content)
    job_yaml.changed_yaml(job_yaml.prepare_document(request.SubmitRequest(cwd=Path.cwd(), target="job.yml"), {}))


def _component(content: bytes) -> None:
    written("c.yml", content)
    _prepared(b"type: pipeline\njobs:\n  one: {type: command, component: ./c.yml, inputs: {x: 1}}\n")


def _pipeline(content: bytes) -> None:
    _project()
    written("requirements.txt", b"numpy\n")
    path = written("pipeline.json", content)
    pipeline_file.read_pipeline(path, path.name)
    pipelines.prepare_pipeline(request.SubmitRequest(cwd=Path.cwd(), target=path.name), {})


def _said(text: str) -> None:
    said = complaint_of(text)
    assert "\n" not in said, said


def _project() -> None:
    if not Path("train.py").exists():
        written("train.py", b"print(1)\n")
        written("data/a.txt", b"1")


CONDA = (
    "name: x\nchannels: [conda-forge, defaults]\ndependencies:\n  - python=3.11\n  - pytorch::torch>=2,<3\n"
    "  - numpy\n  - pip:\n    - torch==2.1; python_version >= '3'\n    - --index-url https://h/s\nvariables: {A: 1}\n",
)
MARKERS = ("; python_version ~= '3.8'", "; extra == 'x'", "platform_version", " >= ", "; 'a' in 'b' or (")
CONDA_WORDS = (
    *MARKERS,
    "dependencies:",
    "- pip:\n",
    "- python=3.9\n",
    "channels:",
    "https://u:p@h/x.conda",
    "==",
    "[build=1]",
)
PIP = (
    "numpy==1.26; python_version < '4'  # comment\ntorch>=2 \\\n  ,<3\n-r other.txt\n"
    "--extra-index-url https://u:p@h/simple\n"
    "-e git+https://h/r#egg=r\n"
)
REQUIREMENTS = (PIP, "-r requirements.txt\n", "-c c.txt\n")


UV_LOCK = """version = 1
requires-python = ">=3.10"
manifest = {overrides = [{name = "numpy", specifier = "<2"}]}
[[package]]
name = "project"
version = "1"
source = {virtual = "."}
dependencies = [{name = "six", marker = "python_version < '4'"}, {name = "g"}, {name = "here", extra = ["x"]}]
optional-dependencies = {old = [{name = "six", version = "1.17.0"}]}
[[package]]
name = "six"
version = "1.17.0"
source = {registry = "https://pypi.org/simple"}
sdist = {url = "https://h/six-1.17.0.tar.gz", hash = "sha256:00"}
wheels = [{url = "https://h/six-1.17.0-py3-none-any.whl", hash = "sha256:11"}]
[[package]]
name = "g"
version = "2"
source = {git = "https://u:p@h/r?subdirectory=a#0badcafe"}
[[package]]
name = "here"
version = "3"
source = {editable = "data"}
optional-dependencies = {x = [{name = "six", version = "1.17.0"}]}
"""
PYLOCK = """lock-version = "1.0"
created-by = "uv"
requires-python = ">=3.10"
extras = ["old"]
[[packages]]
name = "six"
version = "1.17.0"
index = "https://pypi.org/simple"
marker = "python_version < '4'"
wheels = [{name = "six-1.17.0-py3-none-any.whl", url = "https://h/six.whl", hashes = {sha256 = "1"}}]
[[packages]]
name = "g"
vcs = {type = "git", url = "https://u:p@h/r", commit-id = "0badcafe", subdirectory = "a"}
[[packages]]
name = "here"
directory = {path = "data", editable = true}
"""
LOCK_WORDS = ("[[package]]\n", "source = ", "{", "}", "[", "]", '"', "editable", "url", "hash", " and extra == 'old'")


def _lock(content: bytes) -> None:
    _project()
    lock = read_lock(written("uv.lock", content), ["old"], "3.11", Path.cwd(), Path.cwd())
    conda_text(CondaFile("uv.lock", pip=[parse_pip_line(line, "uv.lock") for line in lock.lines]))
    assert "\n" not in "".join(lock_remarks(lock, Path.cwd(), Path.cwd()))


def _as_toml(value: object) -> str:
    """JSON values in TOML, on one line. Null, which TOML lacks, becomes an empty text."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_as_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value if value is not None else "")


def _lock_values(sample: str) -> Callable[[], st.SearchStrategy[bytes]]:
    def lines(document: object) -> bytes:
        top = document if isinstance(document, Mapping) else {"package": document}
        return "\n".join(f"{json.dumps(key)} = {_as_toml(each)}" for key, each in top.items()).encode()

    return lambda: documents([TOML.loads(sample)]).map(lines)


def _conda(content: bytes) -> None:
    _remarks(conda_text(read_conda_file(written("environment.yml", content))))


def _remarks(conda: str) -> None:
    written(".python-version", b"3.12")
    environment_remarks(EnvironmentSpec(image="i", conda=conda), None, [Path.cwd()], ["jupyter"])


def _requirements(content: bytes) -> None:
    written("other.txt", b"scipy\n-r requirements.txt\n" if content.startswith(b"-r other") else b"scipy\n")
    _remarks(conda_text(requirements_as_conda(written("requirements.txt", content), Path.cwd(), Path.cwd(), {})))


def _python_version(content: bytes) -> None:
    written(".python-version", content)
    assert python_version(Path.cwd(), Path.cwd(), {}).isprintable()


TABLE = (
    'image,slide_id,label,mask\na.tiff,1,tumour,m.tiff\n"b ""x"".tiff",2,,\n',
    "sep=;\nimage;slide_id\na;1\n",
    "slide_id\timage\n1\tx\n",
)
IDS = ('slide_id,label\n1,a\n"2",b\n', "a\nb\n\nc\n", "Image;x\n1;2\n")
LATEST = ("exp:train_1700000000_0badcafe\n", "train_1700000000_0badcafe\n", "\ufeffexp:run\r\n")
SLIDE_SIZE = (96, 64)
LARGEST = 4_000_000  # pixels of a slide that is read completely; of a larger one, only the start is read
MOST_STRIPS = 40
PICTURES = {"png": {}, "jpg": {"quality": 90}, "webp": {"quality": 80}, "jp2": {}, "bmp": {}}
TIFFS: Sequence[dict[str, Any]] = (
    *(
        {"tile": 32, "levels": 2},
        {"compression": "deflate", "tile": 32},
        {"tile": None, "compression": "lzw", "rowsperstrip": 16},
    ),
    *(
        {"compression": "webp", "tile": 32},
        {"compression": "jpeg2000", "tile": 32},
        {"compression": "zstd", "tile": 32, "bigtiff": True},
    ),
)


@cache
def _tiffs() -> list[bytes]:
    picture, path = slide_picture(0, SLIDE_SIZE), Path.cwd() / "made.tiff"
    found = []
    for options in TIFFS:
        write_tiff(path, picture, **options)
        found.append(path.read_bytes())
    write_svs(path, picture, levels=2)
    return [*found, path.read_bytes()]


@cache
def _pictures() -> list[bytes]:
    from PIL import Image

    found = []
    for ending, options in PICTURES.items():
        path = Path.cwd() / f"made.{ending}"
        Image.fromarray(slide_picture(0, SLIDE_SIZE)).save(path, **options)  # type: ignore[arg-type]
        found.append(path.read_bytes())
    return found


def _read_slide(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of libraries, which a montage also silences
        slide = pictures.open_slide(path, Backend.auto)
    try:
        for level, size in enumerate(slide.levels):
            strips = slide.strips(level, (255, 255, 255))
            for number, strip in enumerate(strips):
                assert strip.shape[1:] == (size[0], 3), strip.shape
                if number > MOST_STRIPS or size[0] * size[1] > LARGEST:
                    break
    finally:
        slide.close()


TABLE_WORDS = ("image", "slide_id", "label", "mask", ",", ";", "\t", '"', '""', "sep=|", "\r\n")
TEXT_FILES: Sequence[
    tuple[str, Callable[[bytes], object], Sequence[str], Sequence[str], tuple[type[Exception], ...]]
] = (
    ("settings", _settings, SETTINGS, WORDS, (BadUsage,)),
    ("settings_of_submit", _submit, SETTINGS, WORDS, (BadUsage,)),
    (
        "settings_of_azure",
        lambda content: principal_source(azure_settings(written(PRIVATE, content).parent), PUBLIC),
        AZURE,
        WORDS,
        (HimlError,),
    ),
    (
        "pyproject",
        lambda content: section_settings(written("pyproject.toml", content).parent, "submit"),
        PYPROJECT,
        WORDS,
        (BadUsage,),
    ),
    ("dotenv", lambda content: read_deepseismic(written(".env", content)), DOTENV, DOTENV_WORDS, (BadUsage,)),
    ("pipeline_variables", _pipeline_variables, DOTENV, DOTENV_WORDS, (BadUsage,)),
    ("innereye", _innereye, INNEREYE, ("variables:", "cluster: ", "node_count: ", "$("), (BadUsage,)),
    ("yaml", _yaml, JOBS, JOB_WORDS, (BadUsage,)),
    (
        "job",
        lambda content: job_yaml_file.read_document(written("job.yml", content), "job.yml", {}).compute.strip(),
        JOBS,
        JOB_WORDS,
        (BadUsage,),
    ),
    ("prepared_job", _prepared, JOBS, JOB_WORDS, (BadUsage,)),
    ("component", _component, (COMPONENT,), JOB_WORDS, (BadUsage,)),
    ("conda", _conda, CONDA, CONDA_WORDS, (BadUsage,)),
    (
        "requirements",
        _requirements,
        REQUIREMENTS,
        (*MARKERS, "-r ", "-c ", "\\\n", "--hash=", "${A}", " # "),
        (BadUsage,),
    ),
    ("lock", _lock, (UV_LOCK, PYLOCK), LOCK_WORDS, (BadUsage,)),
    ("python_version", _python_version, ("3.11\n", "pypy3.10\n", "3.11.4/envs/x\n3.10"), (), (BadUsage,)),
    (
        "ids",
        lambda content: query.read_ids(written("ids.csv", content), "--include_by_slide_id"),
        IDS,
        ("slide_id", ",", ";", '"', "\r\n"),
        (BadUsage,),
    ),
    (
        "latest_run",
        lambda content: read_latest_run_file(written("most_recent_run.txt", content)),
        LATEST,
        (":", "\r\n"),
        (BadUsage, NotFound),
    ),
)


def _values(name: str, run: Callable[[bytes], object], samples: Sequence[str]) -> Target:
    """A target for YAML files with changed values instead of changed characters, written as JSON."""

    def examples() -> st.SearchStrategy[bytes]:
        return documents([yaml.safe_load(sample) for sample in samples]).map(
            lambda document: json.dumps(document, default=str).encode()
        )

    return Target(f"files/{name}_values", examples, run)


def targets() -> list[Target]:
    return [
        *(
            Target(f"files/{name}", partial(contents, samples, words), run, refusals)
            for name, run, samples, words, refusals in TEXT_FILES
        ),
        _values("innereye", _innereye, INNEREYE),
        Target("files/toml_values", _toml, _submit),
        Target("files/config", lambda: json_files([CONFIG, {"Scope": SCOPE, "Id": None}]), _config, (HimlError,)),
        _values("job", _prepared, JOBS),
        _values("component", _component, (COMPONENT,)),
        Target("files/pipeline", lambda: json_files([STEPS]), _pipeline),
        Target(
            "files/complaint",
            lambda: st.one_of(texts(SAID), json_texts([COMPLAINT]).map(lambda text: f"Validation for X: {text}")),
            _said,
            (),
        ),
        _values("conda", _conda, CONDA),
        Target("files/uv_lock_values", _lock_values(UV_LOCK), _lock),
        Target("files/pylock_values", _lock_values(PYLOCK), _lock),
        Target("files/table", lambda: texts(TABLE, TABLE_WORDS), lambda text: query.read_table(text, "slides.csv")),
        Target(
            "slides/tiff",
            lambda: damaged(_tiffs()),
            lambda content: _read_slide(written("slide.tiff", content)),
            (SlideUnreadable,),
        ),
        Target(
            "slides/picture",
            lambda: damaged(_pictures()),
            lambda content: _read_slide(written("slide.png", content)),
            (SlideUnreadable,),
        ),
        Target("slides/stored_size", lambda: damaged([*_pictures(), *_tiffs()]), tiff.stored_size, ()),
    ]

"""Parsers of settings: himl's own, those of other tools that it takes over, and the address of a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

from himl_cli.app import loaded
from himl_cli.commands.scripts import submit_settings
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.settings import SECTIONS, find_settings, section_settings
from himl_cli.services.project_setup import read_deepseismic, read_innereye
from himl_cli.services.submission.pipeline_file import pipeline_variables
from himl_cli.workspaces.azure.config import PUBLIC, address_from_config, azure_settings, find_config
from himl_cli.workspaces.azure.credentials import principal_source
from stress.fuzz.file_targets import Row, text_targets, values_target
from stress.fuzz.strategies import json_files
from stress.fuzz.target import Target, written

SETTINGS = (
    '# ours\n[submit]\ncluster = "gpu"\nnum_nodes = 2\nwait = true\ntag.team = "blue"\nsweep.lr = [0.1, 0.01]\nmax_run_duration = "2h"\n\n'
    '[azure]\ntenant_id = "0f0f0f0f-0000-4000-8000-000000000001"\n[montage]\nwidth = 100\n',
    "[submit]\nenv_var = ['A=b', \"C=d\"]\ninput = [\"x\",\n \"y\"] # two\nprocesses_per_node = 0x4\nearly_stop = '''\nbandit(slack_factor=0.1)'''\n",
    'submit.cluster = "a"\nsubmit.tag = {a = "b", c = 1979-05-27T07:32:00Z}\n[[azure]]\n',
)
PYPROJECT = ('[project]\nname = "x"\n[tool.himl.submit]\ncluster = "gpu"\n[tool.himl.azure]\ntenant_id = "t"\n[[tool.other]]\na = 1\n',)
WORDS = ("[submit]", "[azure]", "[tool.himl]", "cluster", "num_nodes", "wait", "tag", "sweep", "true", "=", "'''", '"""', "1979-05-27", "[[", "]]", ".", "+inf")
CONFIG = {"subscription_id": "0f0f0f0f-0000-4000-8000-000000000000", "resource_group": "group", "workspace_name": "ws"}
SCOPE = "/subscriptions/0f0f0f0f-0000-4000-8000-000000000000/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/ws"
DOTENV = (
    "SUBSCRIPTION_ID=0f0f0f0f\nexport RESOURCE_GROUP = 'group' # here\nWORKSPACE_NAME=\"ws\"\n"
    "AML_COMPUTE_CLUSTER_NAME=gpu\nBLOB_ACCOUNT_KEY=x==\nAML_COMPUTE_CLUSTER_MAX_NODES=4\n",
)
DOTENV_WORDS = ("SUBSCRIPTION_ID=", "export ", "AML_COMPUTE_CLUSTER_NAME", "AML_COMPUTE_CLUSTER_MAX_NODES=", "BLOB_CONTAINER_NAME=", "'", '"', "#")
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


def _azure(content: bytes) -> None:
    written("himl.private.toml", content)
    principal_source(azure_settings(Path.cwd()), PUBLIC)


def _pyproject(content: bytes) -> None:
    written("pyproject.toml", content)
    section_settings(Path.cwd(), "submit")


def _config(content: bytes) -> None:
    path = written("config.json", content)
    find_config(path.parent)
    address_from_config(path).studio_url("runs/x")


def _dotenv(content: bytes) -> None:
    read_deepseismic(written(".env", content))


def _pipeline_variables(content: bytes) -> None:
    written(".env", content)
    variables = pipeline_variables(Path.cwd(), Path.cwd(), {})
    if variables.cluster:
        variables.cluster_spec(variables.cluster, 1, "step1")
    variables.container("data")


def _innereye(content: bytes) -> None:
    read_innereye(written("settings.yml", content), Path.cwd())


LITERALS: tuple[str, ...] = (
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
    "{a = {b = 2}}",
    "1979-05-27",
)
LITERALS += ("07:32:00", "9223372036854775808", "0xffff", '"""a\nb"""', "[{a = 1}]", "'a=b'", "['a=b', 'c=d']", "'https://h/a?sig=x'", "1_000", '"٣"')


def _toml() -> st.SearchStrategy[bytes]:
    """Options of submit, each set to something that TOML can say."""
    options = sorted({name for parameter in loaded("submit").params for name in (parameter.name, parameter.name.replace("_", "-"))})
    lines = st.builds("{} = {}".format, st.sampled_from(options), st.sampled_from(LITERALS) | st.integers().map(str) | st.floats().map(str))
    below = st.builds("{}.{} = {}".format, st.sampled_from(options), st.sampled_from(["a", '""', '"a b"', "a.b"]), st.sampled_from(LITERALS))
    return st.lists(lines | lines | below, min_size=1, max_size=4).map(lambda found: "\n".join(["[submit]", *found]).encode())


TEXT_FILES: Sequence[Row] = (
    ("settings", _settings, SETTINGS, WORDS, (BadUsage,)),
    ("settings_of_submit", _submit, SETTINGS, WORDS, (BadUsage,)),
    ("settings_of_azure", _azure, ("[azure]\ntenant_id = 't'\nservice_principal_id = 'i'\nservice_principal_password = 'p'\n",), WORDS, (HimlError,)),
    ("pyproject", _pyproject, PYPROJECT, WORDS, (BadUsage,)),
    ("dotenv", _dotenv, DOTENV, DOTENV_WORDS, (BadUsage,)),
    ("pipeline_variables", _pipeline_variables, DOTENV, DOTENV_WORDS, (BadUsage,)),
    ("innereye", _innereye, INNEREYE, ("variables:", "cluster: ", "node_count: ", "$("), (BadUsage,)),
)


def targets() -> list[Target]:
    return [
        *text_targets(TEXT_FILES),
        values_target("innereye", _innereye, INNEREYE),
        Target("files/toml_values", _toml, _submit),
        Target("files/config", lambda: json_files([CONFIG, {"Scope": SCOPE, "Id": None}]), _config, (HimlError,)),
    ]

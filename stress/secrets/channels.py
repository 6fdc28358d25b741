"""The ways by which a secret comes to a command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stress.secrets.lab import PRINCIPAL, VENDOR, Lab
from tests.servers.azureml.seeding import DEFAULT

STORED = "stored"
"""The datastore of the cases whose secret is how it is opened."""


@dataclass(frozen=True)
class Channel:
    """*set_up* makes a lab use it; *kinds* of secrets are about then, or it proves nothing."""

    name: str
    kinds: Sequence[str]
    set_up: Callable[[Lab], None]


def _variables(lab: Lab) -> None:
    """`HIML_*` variables, as `Lab` has them."""


def _azure_variables(lab: Lab) -> None:
    _unsigned(lab)
    lab.env |= {name: lab.staged.environment()[name] for name in VENDOR}


def _private_toml(lab: Lab) -> None:
    values = {name.removeprefix("HIML_").lower(): lab.env[name] for name in PRINCIPAL}
    _unsigned(lab)
    lines = ["[azure]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    lab.write("himl.private.toml", "\n".join(lines) + "\n", is_own=True, mode=0o600)


def _dotenv(lab: Lab) -> None:
    principal, state = lab.staged.state.principal, lab.staged.state
    lines = {
        "SUBSCRIPTION_ID": state.subscription,
        "RESOURCE_GROUP": state.group,
        "WORKSPACE_NAME": state.name,
        "TENANT_ID": principal.tenant,
        "SP_ID": principal.client_id,
        "SP_PASSWORD": principal.secret,
        "BLOB_ACCOUNT_KEY": state.storage.key,
        "WANDB_API_KEY": lab.secret("value"),
    }
    lab.write(".env", "".join(f"{name}={value}\n" for name, value in lines.items()), is_own=True, mode=0o600)
    _takes_over(lab, ".env")


def _innereye(lab: Lab) -> None:
    state, principal = lab.staged.state, lab.staged.state.principal
    public = {"tenant_id": principal.tenant, "subscription_id": state.subscription, "resource_group": state.group, "workspace_name": state.name}
    private = {"application_id": principal.client_id, "application_key": principal.secret, "datasets_account_key": state.storage.key}
    private |= {"pip_extra_index_url": f"https://ada:{lab.secret('password')}@index.example/simple"}
    for name, values in (("settings.yml", public), ("InnerEyePrivateSettings.yml", private)):
        lab.write(name, "".join(["variables:\n", *(f"  {key}: '{value}'\n" for key, value in values.items())]), is_own=name != "settings.yml", mode=0o600)
    _takes_over(lab, "settings.yml")


def _takes_over(lab: Lab, name: str) -> None:
    _unsigned(lab)
    (lab.project / "config.json").unlink()
    lab.arguments += ["--from", name]
    lab.private.add(lab.project / "himl.private.toml")


def _store(credentials: str, kind: str = "AzureBlob") -> Callable[[Lab], None]:
    def set_up(lab: Lab) -> None:
        lab.staged.add_datastore(STORED, credentials=credentials, kind=kind)
        lab.staged.put_blobs(STORED, {"data/a.txt": b"a", "data/b/c.txt": b"c"})
        lab.arguments += ["--datastore", STORED]
        if credentials == "Sas":
            lab.staged.state.storage.takes_keys = True

    return set_up


def _delegation(lab: Lab) -> None:
    lab.staged.state.storage.takes_keys = False


def _source(lab: Lab) -> None:
    """A signed address, typed."""
    lab.staged.put_blob(DEFAULT, "given/last.ckpt", b"given")
    where = lab.staged.state.datastores[DEFAULT]
    link = where.storage.blob_link(where.container, "given/last.ckpt")
    lab.arguments += ["--checkpoint", link]


def _proxy(lab: Lab) -> None:
    address = lab.env["HTTPS_PROXY"].replace("http://", f"http://ada:{lab.secret('proxy password')}@")
    lab.env |= {"HTTPS_PROXY": address, "https_proxy": address}


def _index(lab: Lab) -> None:
    lab.arguments += ["--pip_extra_index_url", f"https://ada:{lab.secret('index password')}@index.example/simple"]


def _conda_index(lab: Lab) -> None:
    index = f"--extra-index-url https://ada:{lab.secret('index password')}@index.example/simple"
    lab.write("environment.yml", f"dependencies:\n- python=3.11\n- pip:\n  - {index}\n  - himl-cli\n", is_own=True)


def _index_variable(lab: Lab) -> None:
    lab.env["HIML_SUBMIT_PIP_EXTRA_INDEX_URL"] = f"https://ada:{lab.secret('index password')}@index.example/simple"


def _env_var_setting(lab: Lab) -> None:
    lab.write("himl.private.toml", f'[submit]\nenv_var = ["WANDB_API_KEY={lab.secret("variable")}"]\n', is_own=True, mode=0o600)


def _remote(lab: Lab) -> None:
    lab.git("init", "-q")
    lab.git("add", "train.py")
    lab.git("commit", "-q", "-m", "first")
    lab.git("remote", "add", "origin", f"https://ada:{lab.secret('remote token')}@git.example/lab/train.git")
    lab.own.add(lab.project / ".git" / "config")


def _env_var(lab: Lab) -> None:
    lab.arguments += ["--env_var", f"WANDB_API_KEY={lab.secret('variable')}", "--env_var", f"SEED={lab.secret('value')}"]


def _docker_args(lab: Lab) -> None:
    lab.arguments += ["--docker_args", f"-e WANDB_API_KEY={lab.secret('docker argument')} --ipc host"]


def _arguments(lab: Lab) -> None:
    lab.script += ["--api_key", lab.secret("argument"), f"--password={lab.secret('argument')}"]


def _run_token(lab: Lab) -> None:
    _unsigned(lab)
    lab.env |= lab.staged.job_environment(lab.staged.add_run("job_1_jj", "train", status="Running"))


def _identity(lab: Lab) -> None:
    _run_token(lab)
    lab.env |= lab.staged.identity_environment(lab.staged.add_principal())


def _mlflow(lab: Lab) -> None:
    """A job here tells the token of its own MLflow server."""


def _unsigned(lab: Lab) -> None:
    for name in PRINCIPAL:
        lab.env.pop(name, None)


CHANNELS = {
    channel.name: channel
    for channel in (
        Channel("variables", ("password", "token"), _variables),
        Channel("idle", ("password",), _variables),
        Channel("azure_variables", ("password", "token"), _azure_variables),
        Channel("private_toml", ("password", "token"), _private_toml),
        Channel("dotenv", ("password", "typed value"), _dotenv),
        Channel("innereye", ("password", "account key"), _innereye),
        Channel("key", ("account key", "token"), _store("AccountKey")),
        Channel("sas", ("signature", "token"), _store("Sas")),
        Channel("store_principal", ("password", "token"), _store("ServicePrincipal", "AzureDataLakeGen2")),
        Channel("store_identity", ("token",), _store("None")),
        Channel("delegation", ("delegation key", "token"), _delegation),
        Channel("links", ("signature", "token"), _variables),
        Channel("source", ("signature",), _source),
        Channel("proxy", ("typed proxy password", "token"), _proxy),
        Channel("index", ("typed index password",), _index),
        Channel("conda_index", ("typed index password",), _conda_index),
        Channel("index_variable", ("typed index password",), _index_variable),
        Channel("env_var_setting", ("typed variable",), _env_var_setting),
        Channel("remote", ("typed remote token",), _remote),
        Channel("env_var", ("typed variable",), _env_var),
        Channel("docker_args", ("typed docker argument",), _docker_args),
        Channel("arguments", ("typed argument",), _arguments),
        Channel("run_token", ("token",), _run_token),
        Channel("identity", ("password", "token"), _identity),
        Channel("mlflow", ("job token",), _mlflow),
    )
}

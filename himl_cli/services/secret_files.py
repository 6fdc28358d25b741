"""Which files hold secrets, by their names, their folders or their content, so that no job is sent with them.

The kinds of files are those that scanners for secrets know by name: the signatures of gitrob (michenriksen/gitrob,
core/signatures.go) and the rules of gitleaks with a `path`, and to them the files that today's clouds, package managers
and tools of machine learning keep credentials in.
"""

from __future__ import annotations

import os
import re

YAML_ENDINGS = (".yml", ".yaml")
SAMPLE_ENDINGS = (".example", ".sample", ".template", ".dist", ".defaults")
PUBLIC_ENDING = ".pub"
LARGEST_READ = 64 * 1024  # bytes
LARGEST_JSON = 4 * 1024  # a key of a service account has 2,400 bytes; projects have many JSON files

# All names are in lower case: some file systems do not tell cases apart. In turn: what this tool and its forerunners
# keep; private keys; stores of passwords; passwords of hosts, databases and mail; clouds; packages, models and the
# tracking of runs; what projects call so themselves; histories (and all that end with `_history`).
_NAMES = """
himl.private.toml .env .envrc innereyeprivatesettings.yml innereyetestvariables.txt settings_private.yml
settings_private.yaml
id_rsa id_dsa id_ecdsa id_ed25519 id_ecdsa_sk id_ed25519_sk secring.gpg otr.private_key
key3.db key4.db logins.json cookies.sqlite
.netrc _netrc .git-credentials .htpasswd .pgpass pgpass.conf .my.cnf .mylogin.cnf .fetchmailrc
.msmtprc .muttrc .smbcredentials
.passwd-s3fs .ftpconfig sftp-config.json filezilla.xml recentservers.xml .vault-token .vault_pass .vault_password
vault_pass.txt
.s3cfg .boto .dockercfg .dockerconfigjson .terraformrc terraform.rc credentials.tfrc.json terraform.tfstate.backup
.databrickscfg
application_default_credentials.json local.settings.json accesstokens.json access_tokens.db credentials.db rclone.conf
msal_token_cache.json msal_token_cache.bin service_principal_entries.json .cdsapirc .ecmwfapirc
.pypirc kaggle.json .comet.config clearml.conf .modal.toml
credentials.json credentials.xml secrets.json secrets.toml secrets.yml secrets.yaml
.history .zhistory .lesshst .viminfo .dbshell consolehost_history.txt fish_history repl_history.jl
"""
_ENDINGS = """
.pfx .p12 .pkcs12 .ppk .keystore .jks .jceks .bks .kdb .kdbx .psafe3 .keychain .keychain-db .agilekeychain .kwallet
.ovpn .publishsettings .tfstate .tfvars
"""
PRIVATE_NAMES, PRIVATE_ENDINGS = frozenset(_NAMES.split()), frozenset(_ENDINGS.split())
# Names that are private only in folders of certain names
PRIVATE_BY_FOLDER = {
    "config": frozenset({".kube", ".snowsql", ".ngc"}),
    "config.json": frozenset({".docker"}),
    "config.local": frozenset({".dvc"}),
    "config.toml": frozenset({".snowflake"}),
    "config.yml": frozenset({"glab-cli"}),
    "config.yaml": frozenset({"doctl"}),
    "connections.toml": frozenset({".snowflake"}),
    "credentials": frozenset({".aws", ".gem", ".cargo", ".mlflow"}),
    "credentials.toml": frozenset({".cargo"}),
    "hosts.yml": frozenset({"gh"}),
    "hub": frozenset({".config"}),
    "auth.json": frozenset({"containers", ".composer"}),
    "settings.xml": frozenset({".m2"}),
    "settings-security.xml": frozenset({".m2"}),
    "gradle.properties": frozenset({".gradle"}),
    "token": frozenset({"huggingface", ".huggingface"}),
    "stored_tokens": frozenset({"huggingface"}),
    "history.sqlite": frozenset({"profile_default"}),
}
# Folders that are private as a whole; the latter within folders of certain names only
PRIVATE_FOLDERS = frozenset(
    {".ssh", ".gnupg", ".aws", ".azure", ".password-store", ".identityservice", ".terraform", "keyrings"}
)
PRIVATE_FOLDERS_IN = {"gcloud": frozenset({".config", "roaming"}), "cache": frozenset({".kube"})}

_PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----")
_LOGIN = re.compile(
    rb"_auth(Token)?[\"']?\s*[=:]|_password\s*=|AuthToken[\"']?\s*:|://[^\s/:@]+:[^\s/@$]+@", re.IGNORECASE
)
_API_KEY = re.compile(rb"^[ \t]*api_key[ \t]*[=:][ \t]*\S", re.MULTILINE)
_SERVICE_ACCOUNT = re.compile(rb"\"type\"\s*:\s*\"service_account\"")
_REFRESH_TOKEN = re.compile(rb"\"refresh_token\"")
# What is looked for in the first bytes of files that may hold a secret by their name, and often hold none
_KEY_ENDINGS = dict.fromkeys((".pem", ".key", ".p8", ".priv", ".private", ".asc", ".gpg", ".crt", ".cer"), _PEM)
_READ_BY_ENDING = {**_KEY_ENDINGS, ".json": _SERVICE_ACCOUNT}
_READ_BY_NAME = {
    **dict.fromkeys((".npmrc", ".yarnrc", ".yarnrc.yml", "pip.conf", "pip.ini", ".condarc", "uv.toml"), _LOGIN),
    "settings": _API_KEY,  # wandb's
    "token.json": _REFRESH_TOKEN,
}
_NAMED_KEY = re.compile(r".*(_rsa|_dsa|_ecdsa|_ed25519|[_-]key|[_-]keypair)")

_VARIABLES = re.compile(rb"^[\"']?variables[\"']?[ \t]*:", re.MULTILINE)
_KEY = rb"(?:^[ \t]+|[{,][ \t]*)[\"']?(%s)[\"']?[ \t]*:"
_WORKSPACE_KEYS = re.compile(
    _KEY % rb"tenant_id|subscription_id|application_id|resource_group|workspace_name",
    re.MULTILINE | re.IGNORECASE,
)
_SECRET_KEYS = re.compile(
    _KEY % rb"\w*(?:application|principal|account|storage|access|client|api)_key|\w*(?:password|secret)",
    re.MULTILINE | re.IGNORECASE,
)


def is_dotenv_name(name: str) -> bool:
    """Whether a file of this name is one of environment variables: `.env`, `.env.local`, `prod.env`; not
    `.env.example`."""
    folded = name.casefold()
    return (folded.endswith(".env") or folded.startswith(".env.")) and not folded.endswith(SAMPLE_ENDINGS)


def may_hold_secrets(path: str, size: int) -> bool:
    """Whether the file at *path* (*size* in bytes) is one of secrets: by its name, by that and its folder's, or by what
    it begins with.

    Read are small files only, whose names make it plausible. A file in one of `is_private_folder` is not known by that.
    """
    name = os.path.basename(path).casefold()
    ending = "." + name.rpartition(".")[2] if "." in name else ""
    if (
        name in PRIVATE_NAMES
        or ending in PRIVATE_ENDINGS
        or is_dotenv_name(name)
        or (name.endswith("_history") and name.startswith("."))
        or os.path.basename(os.path.dirname(path)).casefold() in PRIVATE_BY_FOLDER.get(name, ())
    ):
        return True
    wanted = _READ_BY_NAME.get(name) or _READ_BY_ENDING.get(ending)
    if not ending and _NAMED_KEY.fullmatch(name):
        wanted = wanted or _PEM
    largest = LARGEST_JSON if wanted is _SERVICE_ACCOUNT else LARGEST_READ
    if size > largest or not (wanted or ending in YAML_ENDINGS):
        return False
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_READ)
    except OSError:
        return False
    if wanted and wanted.search(content):
        return True
    # InnerEye's settings: `variables:` with a key that is a secret, or with two that name a workspace or who signs in
    names = {key.lower() for key in _WORKSPACE_KEYS.findall(content)}
    is_theirs = ending in YAML_ENDINGS and _VARIABLES.search(content) is not None
    return is_theirs and (_SECRET_KEYS.search(content) is not None or len(names) >= 2)


def is_private_folder(path: str) -> bool:
    """Whether all that lies in the folder at *path* counts as secret, but for public keys, whatever it is called."""
    folder, name = os.path.split(path.casefold())
    return name in PRIVATE_FOLDERS or (
        name in PRIVATE_FOLDERS_IN and os.path.basename(folder) in PRIVATE_FOLDERS_IN[name]
    )

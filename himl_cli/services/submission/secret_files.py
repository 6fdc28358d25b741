"""Files that may hold secrets, by name, by folder or by content. They stay on this machine wherever files leave it.

The sources are the names in scanners for secrets, the signatures of gitrob (michenriksen/gitrob, core/signatures.go),
the rules of gitleaks with a `path`, and the credential files of current clouds, package managers and machine-learning
tools.

Names decide first, without the endings of copies (`id_rsa.bak`). Small files of settings are read, but no sources and
no documents: those mention secrets, and a job fails without them.
"""

from __future__ import annotations

import codecs
import os
import re
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain

from himl_cli.core.files import BINARY
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.redaction import has_token, is_placeholder
from himl_cli.core.text import YAML_ENDINGS

SAMPLE_ENDINGS = (".example", ".sample", ".template", ".tmpl", ".dist", ".defaults", ".schema")
PUBLIC_ENDING = ".pub"
# In bytes: the part to read of files that a name suggests, and YAML; other settings; those searched for tokens
LARGEST_READ, LARGEST_SETTINGS, LARGEST_LIST = 64 * 1024, 8 * 1024, 1024
# Files of a folder with one ending, above which they count as data, which himl does not read
MOST_ALIKE = 50
_READ_ONLY = os.O_RDONLY | BINARY

# Names are in lower case, because some file systems ignore case. In this order: files of himl and its predecessors,
# private keys, password stores and browsers, passwords of hosts, databases and mail, clouds, packages, models and
# experiment tracking, notebooks, names that projects use, and histories (as well as all that end with `_history`).
_NAMES = """
himl.private.toml .env .envrc innereyeprivatesettings.yml innereyetestvariables.txt settings_private.yml
settings_private.yaml
id_rsa id_dsa id_ecdsa id_ed25519 id_ecdsa_sk id_ed25519_sk id_xmss identity.age secring.gpg otr.private_key
ssh_host_rsa_key ssh_host_dsa_key ssh_host_ecdsa_key ssh_host_ed25519_key minisign.key
key3.db key4.db logins.json signons.sqlite cookies cookies.sqlite cookies.txt cookies.db cookies.binarycookies
storage_state.json storagestate.json
.netrc _netrc .authinfo .git-credentials .htpasswd .htdigest .pgpass pgpass.conf .my.cnf .mylogin.cnf .fetchmailrc
.msmtprc .muttrc .offlineimaprc .smbcredentials .mongorc.js .irb_history .pentadactylrc
.passwd-s3fs .ftpconfig sftp-config.json filezilla.xml sitemanager.xml recentservers.xml .vault-token .vault_pass
.vault_password vault_pass.txt .remote-sync.json winscp.ini
.s3cfg .boto .dockercfg .dockerconfigjson .terraformrc terraform.rc credentials.tfrc.json
.databrickscfg .kubeconfig kubeconfig kubeconfig.yaml kubeconfig.yml kubeconfig.json azureauth.json .aws-credentials
aws_credentials accesskeys.csv rootkey.csv .bluemix .tugboat .cf_token
application_default_credentials.json local.settings.json accesstokens.json access_tokens.db credentials.db rclone.conf
msal_token_cache.json msal_token_cache.bin service_principal_entries.json .cdsapirc .ecmwfapirc
.pypirc kaggle.json .comet.config clearml.conf .modal.toml .hf_token .openai_api_key .wandb_api_key
jupyter_cookie_secret notebook_cookie_secret
credentials.json credentials.xml credentials.csv secrets.json secrets.toml secrets.yml secrets.yaml client_secret.json
client_secrets.json .secrets .credentials
.history .zhistory .lesshst .viminfo .dbshell consolehost_history.txt fish_history repl_history.jl .rhistory
"""
_ENDINGS = """
.pfx .p12 .pkcs12 .ppk .keystore .jks .jceks .bks .kdb .kdbx .psafe3 .keychain .keychain-db .agilekeychain .kwallet
.ovpn .publishsettings .tfstate .tfvars .mobileconfig .rdp .age-key
"""
PRIVATE_NAMES, PRIVATE_ENDINGS = frozenset(_NAMES.split()), frozenset(_ENDINGS.split())
_PATTERNS = lazy_pattern(
    r"id_(?:rsa|dsa|ecdsa|ed25519)(?:[_-][\w-]+)?|(?:jp|nb)server-\d+(?:-open)?\.json"
    r"|client_?secrets?[._-].*\.json|.*\.tfvars\.json"
    r"|.*-firebase-adminsdk-.*\.json|(?:login|web) data(?: for account)?|\..*_history"
)
# Names that are private only in folders of certain names
PRIVATE_BY_FOLDER = {
    "config": frozenset({".kube", ".snowsql", ".ngc", ".bundle"}),
    "config.json": frozenset({".docker", ".mc"}),
    "config.local": frozenset({".dvc"}),
    "config.toml": frozenset({".snowflake"}),
    "config.yml": frozenset({"glab-cli", ".fly"}),
    "config.yaml": frozenset({"doctl"}),
    "connections.toml": frozenset({".snowflake"}),
    "cli.toml": frozenset({"hcloud"}),
    "credentials": frozenset({".aws", ".gem", ".cargo", ".mlflow"}),
    "credentials.toml": frozenset({".cargo"}),
    "hosts.yml": frozenset({"gh"}),
    "hub": frozenset({".config"}),
    "auth.json": frozenset({"containers", ".composer"}),
    "passwd": frozenset({".vnc"}),
    "cert.pem": frozenset({".cloudflared"}),
    "settings.xml": frozenset({".m2"}),
    "settings-security.xml": frozenset({".m2"}),
    "gradle.properties": frozenset({".gradle"}),
    "token": frozenset({"huggingface", ".huggingface"}),
    "stored_tokens": frozenset({"huggingface"}),
    "history.sqlite": frozenset({"profile_default"}),
}
# Folders with private contents. Those of PRIVATE_FOLDERS_IN are private only in folders of certain names.
PRIVATE_FOLDERS = frozenset(
    {".ssh", ".gnupg", ".aws", ".azure", ".password-store", ".identityservice", ".terraform", "keyrings"}
)
PRIVATE_FOLDERS_IN = {
    "gcloud": frozenset({".config", "roaming"}),
    "cache": frozenset({".kube"}),
    "auth": frozenset({".subversion"}),
}

# What editors, people and rotations add to a name
_OF_COPIES = lazy_pattern(
    r"(?=[~. _(-])(?:"  # for speed
    r"(?:~|\.(?:bak|backup|back|bk|old|orig|original|save|saved|copy|tmp|temp|sw[op]|prev|previous|disabled|unused|rej"
    r"|rpmsave|dpkg-old|gz|bz2|xz|zst|zip|\d{1,14}|\d{4}-\d\d-\d\d))+$"
    r"|(?:[ ._-]*\(\d{1,3}\)|[ ._-]+(?:bak|backup|old|orig|copy)(?:[ _-]?\d{1,3})?)+(?=(?:\.\w{1,10})?$)"
    r")"
)
# Endings of files with settings, which are read ("" for names without one). Sources and documents are not among them.
_SETTINGS = """
.txt .json .jsonc .json5 .yml .yaml .toml .ini .cfg .cnf .conf .config .properties .xml .in .list .csv .har .jwk .jwks
.pem .key .p8 .priv .private .asc .gpg .crt .cer .age .token .secret .secrets .cred .creds .credentials .auth .cookies
.netrc
"""
_READ_ENDINGS = frozenset(("", *_SETTINGS.split()))


# Frequent endings of sources, documents and data, which stay unless a list above has the name
_PLAIN = """
.py .pyi .pyc .ipynb .md .rst .js .mjs .ts .tsx .jsx .css .scss .html .svg .c .cc .cpp .h .hpp .cu .java .go .rs .rb .r
.jl .m .tex .bib .sh .sql .png .jpg .jpeg .gif .tif .tiff .bmp .webp .npy .npz .h5 .pt .pth .ckpt .pkl .safetensors
.parquet .tsv .wav .mp3 .mp4 .dcm .nii .so .log .pdf
"""
_PLAIN_ENDINGS = frozenset(_PLAIN.split())


def _assigned(name: str, least: int) -> str:
    """A pattern for a value that *name* has in JSON, YAML, TOML and the like. It has *least* characters or more, among
    them a digit or a capital letter, because names of variables and of settings have none."""
    return rf"(?:{name})[\"']?\s*[:=]\s*[\"']?(?=[^\s\"',;]*[A-Z\d])([^\s\"',;{{}}<>\[\]()$%*]{{{least},}})"


_PEM = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[^\S\n]*(?:(?:\n|\\+[nr])[^\S\n]*)+[A-Za-z0-9+/]{3}"
# Secrets in settings, in groups by a text in lower case that occurs: another such text, and a pattern, whose last group
# is the secret. Python compiles it when both texts occur
_Forms = Mapping[bytes, Sequence[tuple[bytes, str]]]
_FORMS: _Forms = {
    b"key": (
        (b"private key", _PEM),
        (b"privatekey", r"(?m)^PrivateKey\s*=\s*[A-Za-z0-9+/]{42,43}="),  # WireGuard
        (b"putty-user-key-file", "PuTTY-User-Key-File"),
        (b"client-key-data", _assigned("client-key-data", 8)),
        (b"accountkey=", r"AccountKey[=]([A-Za-z0-9+/]{20,})"),
        (b"accesskey=", r"SharedAccessKey[=]([A-Za-z0-9+/]{20,})"),
    ),
    b"secret": (
        (b"", "AGE-SECRET-KEY-1|untrusted comment: [a-z]+ encrypted secret key|,Secret access key"),
        (b"", _assigned("(?i:client|app|consumer|webhook)[_-]?(?i:secret)", 6)),
        (b"", _assigned("(?i:secret_?access_?key)", 16)),
    ),
    b"token": ((b"", _assigned("(?i:(?:access|refresh|auth)_?token)", 20)),),
    b"kind: config": ((b"", r"(?s)\A(?=.*\nusers:)" + _assigned(".*(?:token|password)", 6)),),
    b"cookie file": ((b"", "HTTP Cookie File"),),
    b"authorization": ((b"", r"(?i)authorization\"?\s*[:=]\s*\"?(?:bearer|basic|token)\s+([\w.=+/-]{12,})"),),
    b";": ((b"", r"(?i);\s*(?:Password|Pwd)=([^;\s\"'{}<>$%*]{3,})"),),
    b"@": (
        (b"://", r"://(?=[^\s/:@]*\d)([\w-]{24,})@"),
        (b"://", r"://([^\s/:@\"'<>]*):([^\s/@\"'<>]+)@(?!localhost|127\.0\.0\.1|0\.0\.0\.0)"),
    ),
}
_JSON_FORMS: _Forms = {
    b'secret"': ((b"", r"(?i:\"client_?secret\")\s*:\s*\"([^\"]+)\""),),
    b"authorized_user": ((b"", r"\"type\"\s*:\s*\"authorized_user\""),),
    b'"tenant"': ((b"", r"(?s)\A(?=.*\"appId\").*\"password\"\s*:"),),  # of a service principal
    b'"auths"': ((b"", _assigned(r"\"auth", 8)),),
    b'"httponly"': ((b"", r"\"(?:cookies|expirationDate|sameSite|session)\""),),
    b'"kty"': ((b"", r"\"d\"\s*:\s*\""),),
}
_BLANK = codecs.BOM_UTF8.decode("latin-1") + " \r\n\t"
# Patterns for files that, by their names, may or may not contain secrets
_ANY_PEM = (b"private key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_NAMED_KEY = lazy_pattern(r".*(?:_rsa|_dsa|_ecdsa|_ed25519|[_-]key|[_-]keypair)")
# Also for files that count as data
_READ_BY_ENDING = {
    **dict.fromkeys((".pem", ".key", ".p8", ".priv", ".private", ".asc", ".gpg", ".crt", ".cer"), _ANY_PEM),
    ".json": (b"service_account", r"\"type\"\s*:\s*\"service_account\""),
}
# The letters of a file, with the signs of a login, show in one pass that it has none of these forms
_LOWER = bytes(range(256)).lower()
_OTHER_BYTES = bytes(byte for byte in range(256) if chr(byte) not in ";@" + string.ascii_letters)
_TEXTS = (*_FORMS, *_JSON_FORMS, *(mark for mark, _ in _READ_BY_ENDING.values()))
_LETTERS = {text.translate(None, _OTHER_BYTES) for text in _TEXTS}
# By a part of them, which most files lack
_SIGNS = (b"k", b"au", b"secret", b"service", b"tenant", b"http", b";", b"@")
_MARKS = {sign: [mark for mark in _LETTERS if sign in mark] for sign in _SIGNS}
assert {*chain(*_MARKS.values())} == _LETTERS
_REPOSITORY = r"(?i)_auth(?:Token)?[\"']?\s*[=:]|_password\s*=|AuthToken[\"']?\s*:|://[^\s/:@]+:[^\s/@$]+@"
_NOTEBOOK = r"(?:\.|\")(?:token|password|hashed_password)\"?\s*[:=]\s*u?[\"'][^\"'<]+"
_READ_BY_NAME = {
    **dict.fromkeys((".npmrc", ".yarnrc", ".yarnrc.yml", "pip.conf", "pip.ini", ".condarc", "uv.toml"), _REPOSITORY),
    "settings": r"(?m)^[ \t]*api_key[ \t]*[=:][ \t]*\S",  # of wandb
    "token.json": r"\"refresh_token\"",
    **{
        f"jupyter_{kind}{ending}": _NOTEBOOK
        for kind in ("server_config", "notebook_config", "lab_config")
        for ending in (".json", ".py")
    },
    "nuget.config": "(?i)ClearTextPassword",
    "settings.xml": "<password>[^<${]+<",
    ".wgetrc": r"(?m)^[ \t]*(?:\w+_)?password\s*=\s*\S",
    ".curlrc": r"(?m)^[ \t]*(?:-u|--?user|user)[\s=:]+\S+:\S",
}
# Lists of packages, which may be long, and whose indexes may have passwords
_PACKAGES = lazy_pattern(
    r"(?:requirements|constraints).*\.(?:txt|in)|(?:environment|conda).*\.ya?ml|pyproject\.toml|pipfile"
    r"|(?:uv|poetry|pipfile)\.lock"
)
# With a value that is not empty, a comment, or a reference such as $(PASSWORD)
_KEY = r"(?mi)(?:^[ \t]+|[{,][ \t]*)[\"']?(%s)[\"']?[ \t]*:(?![ \t]*(?:[\"']{1,2}[ \t]*)?(?:\$[({]|[#,}]|\r?$))"
_INNEREYE = r"(?m)^[\"']?variables[\"']?[ \t]*:"
_INNEREYE_SECRET = _KEY % r"\w*(?:application|principal|account|storage|access|client|api)_key|\w*(?:password|secret)"
_INNEREYE_PLACE = _KEY % "tenant_id|subscription_id|application_id|resource_group|workspace_name"


def is_dotenv_name(name: str) -> bool:
    """Whether the name is one of a file with environment variables: `.env`, `.env.local`, `prod.env`, but not
    `.env.example`."""
    folded = name.casefold()
    is_one = folded.endswith(".env") or folded.startswith((".env.", ".env-", ".env_"))
    return is_one and not folded.endswith(SAMPLE_ENDINGS) and not re.search("example|sample|template", folded)


def ending_of(name: str) -> str:
    """The ending of a file's name with its dot, that of a hidden file too, or empty."""
    return name[name.rfind(".") :] if "." in name else ""


def is_secret_file(path: str, size: int, in_private_folder: bool, *, is_data: bool = False) -> bool:
    """Whether the file at *path* (*size* in bytes) may hold secrets, by its name, its folder or its content.

    *in_private_folder*: a folder above it is one of `is_private_folder`. Reads only small files, and if it *is_data*,
    only one whose name by itself suggests to.
    """
    folder, _, base = path.rpartition(os.sep)
    name, ending, is_private, is_read = _kind(base)
    if is_private or (in_private_folder and not name.endswith(PUBLIC_ENDING)):
        return True
    if name in PRIVATE_BY_FOLDER and os.path.basename(folder).casefold() in PRIVATE_BY_FOLDER[name]:
        return True
    if not is_read:
        return False
    most = LARGEST_READ if ending in YAML_ENDINGS else LARGEST_SETTINGS
    is_named, has_own_form = is_read == "name", ending in _READ_BY_ENDING or ending in YAML_ENDINGS
    if not is_named and (size > most or (is_data and not has_own_form)):
        return False
    try:
        handle = os.open(path, _READ_ONLY)
        try:
            content = os.read(handle, LARGEST_READ)
        finally:
            os.close(handle)
    except OSError:
        return False
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # written by PowerShell
        content = content.decode("utf-16", "replace").encode()
    letters = content.translate(_LOWER, _OTHER_BYTES)
    may_match = any(sign in letters and any(mark in letters for mark in marks) for sign, marks in _MARKS.items())
    text, folded = "", b""
    if may_match or name in _READ_BY_NAME or ending in YAML_ENDINGS:
        text, folded, wanted = content.decode("latin-1"), content.lower(), _READ_BY_ENDING.get(ending)
        if wanted is None and not ending and _NAMED_KEY.fullmatch(name):
            wanted = _ANY_PEM
        if (
            (name in _READ_BY_NAME and re.search(_READ_BY_NAME[name], text))
            or (wanted is not None and wanted[0] in folded and re.search(wanted[1], text))
            or (ending in YAML_ENDINGS and _is_of_innereye(content, text))
        ):
            return True
    # A script is a source
    if (not is_named and (is_data or len(content) > LARGEST_SETTINGS)) or content.startswith(b"#!"):
        return False
    is_json = may_match and text[:100].lstrip(_BLANK)[:1] in "{["
    return (
        (may_match and _has_form(folded, text, _FORMS))
        or (is_json and _has_form(folded, text, _JSON_FORMS))
        or (len(content) <= LARGEST_LIST and has_token(content))
    )


@lru_cache(maxsize=10_000)
def _kind(base: str) -> tuple[str, str, bool, str]:
    """What the name *base* says: itself in lower case and without additions of copies, its ending, whether such a file
    is private, and whether to read it, for its `name` or only for its `ending` (else empty)."""
    name = base.casefold()
    ending = ending_of(name)
    if ending in _PLAIN_ENDINGS and name not in PRIVATE_NAMES and name not in _READ_BY_NAME:
        return name, ending, False, ""
    name = plain_name(name)
    ending = ending_of(name)
    is_private = (
        name in PRIVATE_NAMES
        or ending in PRIVATE_ENDINGS
        or is_dotenv_name(name)
        or _PATTERNS.fullmatch(name) is not None
    )
    is_named = name in _READ_BY_NAME or _PACKAGES.fullmatch(name) is not None
    return name, ending, is_private, "name" if is_named else "ending" if ending in _READ_ENDINGS else ""


def plain_name(name: str) -> str:
    """The *name*, in lower case, without what copies of a file add to it: `id_rsa` for `id_rsa.bak`."""
    if name.startswith(("#", ".#")):  # of Emacs
        name = name.removeprefix(".").strip("#")
    if name.startswith(".") and re.search(r"\.sw[a-p]$", name):  # of Vim
        name = name[:-4] if name[:-4] in PRIVATE_NAMES or is_dotenv_name(name[:-4]) else name[1:-4]
    return _OF_COPIES.sub("", name) or name


def _has_form(folded: bytes, text: str, groups: _Forms) -> bool:
    for part, forms in groups.items():
        if part in folded:
            for mark, pattern in forms:
                if mark in folded and any(map(_is_real, re.finditer(pattern, text))):
                    return True
    return False


def _is_of_innereye(content: bytes, text: str) -> bool:
    """Whether these are settings of InnerEye: `variables:` with a secret key, or with two keys that identify a
    workspace or an account."""
    if b"variables" not in content or not re.search(_INNEREYE, text):
        return False
    named = {key.lower() for key in re.findall(_INNEREYE_PLACE, text)}
    return len(named) >= 2 or re.search(_INNEREYE_SECRET, text) is not None


def _is_real(found: re.Match[str]) -> bool:
    """Whether a secret that was found is none of an example, as in documentation."""
    secret = found[found.lastindex or 0]
    return not is_placeholder(secret) and (found.lastindex != 2 or secret != found[1])


def is_private_folder(path: str) -> bool:
    """Whether all files in the folder at *path*, except public keys, count as secret regardless of their names."""
    folder, name = os.path.split(path.casefold())
    return name in PRIVATE_FOLDERS or (
        name in PRIVATE_FOLDERS_IN and os.path.basename(folder) in PRIVATE_FOLDERS_IN[name]
    )

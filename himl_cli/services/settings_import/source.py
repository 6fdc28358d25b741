"""Which tool's settings a file holds, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.workspaces import TakenSettings
from himl_cli.services.secret_files import YAML_ENDINGS, is_dotenv_name
from himl_cli.services.settings_import.deepseismic import read_deepseismic
from himl_cli.services.settings_import.innereye import PRIVATE_FILES, read_innereye

KINDS = "InnerEye's settings (.yml), DeepSeismic's .env, or a config.json of the Azure portal"


def read_settings(path: Path, folder: Path, read_config: Callable[[Path], Mapping[str, str]]) -> TakenSettings:
    """What the file says; *read_config* reads a `config.json`, *folder* is where the user is. Raises BadUsage for any
    other kind of file.

    Those of them that hold secrets are never part of a snapshot; hence no `.env.example`, which is.
    """
    if path.is_dir():
        raise BadUsage(f"--from: '{path}' is a folder.", hint=f"Name the file in it. It takes {KINDS}.")
    if not path.is_file():
        raise BadUsage(f"--from: there is no file '{path}'.", hint=f"It takes {KINDS}.")
    if path.suffix == ".json":
        return TakenSettings(workspace=read_config(path), read=[path])
    if path.suffix.lower() in YAML_ENDINGS or path.name in PRIVATE_FILES:
        return read_innereye(path, folder)
    if is_dotenv_name(path.name):
        return read_deepseismic(path)
    raise BadUsage(f"--from '{path.name}': himl does not know this kind of file.", hint=f"It takes {KINDS}.")

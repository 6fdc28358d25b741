"""Files that are written where there are none, all or none of them; a file of the user's is never changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.files import write_atomic
from himl_cli.core.settings import FILE, PRIVATE_FILE, find_settings
from himl_cli.core.workspaces import PreparedFile, Section

MOVE = "Move it away and try again."


@dataclass(frozen=True)
class NewFile:
    """A file that is to say `content` (by `text`)."""

    path: Path
    text: str
    content: Mapping[str, Any]
    is_private: bool = False
    said_by: Callable[[Path], Mapping[str, Any]] | None = None
    """What such a file says, for one that is not himl's alone and has other forms too. Raises HimlError for what is no
    such file."""


def settings_file(folder: Path, sections: Mapping[str, Section], *, is_private: bool) -> NewFile:
    """A settings file of himl's with *sections*."""
    lines = [
        line
        for name, section in sections.items()
        for line in ("", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items()))
    ]
    return NewFile(folder / (PRIVATE_FILE if is_private else FILE), "\n".join(lines[1:]) + "\n", sections, is_private)


def write_all(files: Sequence[NewFile]) -> list[PreparedFile]:
    """Write those that are not there yet. Raises BadUsage, with nothing written, where one exists and says something
    else; DiskFailed."""
    missing = [file for file in files if not _is_there(file)]
    made: list[Path] = []
    try:
        for file in missing:
            write_atomic(file.path, file.text, is_private=file.is_private)
            made.append(file.path)
    except OSError as err:
        for path in made:
            path.unlink(missing_ok=True)
        raise DiskFailed(f"Cannot write '{missing[len(made)].path}': {err.strerror}. Nothing was written.") from err
    return [PreparedFile(file.path, file in missing, list(_leaves(file.content)), file.is_private) for file in files]


def _is_there(file: NewFile) -> bool:
    """Whether the file exists and says all that it is to say. Raises BadUsage where it says something else, or one
    would take another's place."""
    existing = _existing_settings(file) if file.said_by is None else _existing_config(file, file.said_by)
    if existing is None:
        return False
    wrong = [key for key, value in _leaves(file.content).items() if _leaves(existing).get(key) != value]
    if wrong:
        hint = f"It has to say: {', '.join(wrong)}. Change it by hand, or move it away and try again."
        raise BadUsage(
            f"'{file.path}' exists and says something else of {wrong[0]}, or nothing. Nothing was written.", hint=hint
        )
    return True


def _existing_config(file: NewFile, said_by: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What a config.json here says; one in `.azureml/` counts too, since a new one would take its place."""
    for path in (file.path, file.path.parent / ".azureml" / file.path.name):
        if os.path.lexists(path):
            try:
                content = said_by(path)
            except HimlError as err:
                raise BadUsage(
                    f"'{path}' exists and is no config of a workspace: {err} Nothing was written.", hint=MOVE
                ) from err
            if content != file.content:
                raise BadUsage(f"'{path}' exists and names something else. Nothing was written.", hint=MOVE)
            return content
    return None


def _existing_settings(file: NewFile) -> Mapping[str, Any] | None:
    for found in find_settings(file.path.parent):
        if found.path == file.path:
            return found.content
        if (found.path.name == PRIVATE_FILE) == file.is_private:
            raise BadUsage(
                f"'{found.path}' holds settings, and a new '{file.path.name}' here would take its place. Nothing was "
                "written.",
                hint=f"Say there by hand: {', '.join(_leaves(file.content))}.",
            )
    if os.path.lexists(file.path):
        raise BadUsage(f"'{file.path}' exists and is no file of settings. Nothing was written.")
    return None


def _leaves(content: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _toml(value: Any) -> str:
    """A plain value as TOML writes it; JSON's texts are TOML's, but for one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

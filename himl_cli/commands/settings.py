"""Settings of `submit` as defaults of its options, checked against the options they set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from himl_cli.commands.groups import normalized
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import VARIABLE_PREFIX, environment_variable
from himl_cli.core.redaction import may_be_signed
from himl_cli.core.settings import PRIVATE_FILE, Setting, find_settings, section_settings
from himl_cli.core.text import NEAR_OPTION, did_you_mean


class SettingsMap(dict[str, Any]):
    """Values by parameter name, as Typer's `default_map` wants them, with the setting that each came from."""

    def __init__(self, settings: Mapping[str, Setting], values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._settings = settings

    def source(self, name: str) -> str:
        """Where the value stands: `FILE:LINE`."""
        return self._settings[name].place


def submit_settings(command: Any, start: Path) -> SettingsMap:
    """What the settings files say about *command*'s options. Raises BadUsage with file, line and key for what cannot be
    used."""
    options = {parameter.name: parameter for parameter in command.params if parameter.param_type_name == "option"}
    settings: dict[str, Setting] = {}
    values: dict[str, Any] = {}
    for key, setting in section_settings(start, "submit").items():
        name = normalized(key)
        if name not in options:
            raise setting.wrong(
                "is no option of 'himl submit'.",
                hint=did_you_mean(name, options) or "See 'himl submit --help' for the options.",
            )
        _check_is_no_secret(setting)
        settings[name] = setting
        values[name] = checked(options[name], setting)
    return SettingsMap(settings, values)


def places_of_settings(command: Any, start: Path, environ: Mapping[str, str]) -> Sequence[str]:
    """The settings files that count for *start*, and the variables that set options of *command*. Raises BadUsage for
    what it could not use."""
    check_variables(command, environ)
    submit_settings(command, start)
    files = [f"'{file.path}'" for file in find_settings(start)]
    return [*files, *sorted(name for name in environ if name.startswith(VARIABLE_PREFIX) and environ[name])]


def _check_is_no_secret(setting: Setting) -> None:
    """Raises BadUsage for an address with a query outside of the private file: it may be signed, and each job's code
    has the file in it."""
    if setting.file.name != PRIVATE_FILE and isinstance(setting.value, str) and may_be_signed(setting.value):
        raise setting.wrong(
            "is a link that may be signed, and this file goes with each job.",
            hint=f"It belongs in {PRIVATE_FILE}, which stays here.",
        )


def check_variables(command: Any, environ: Mapping[str, str]) -> None:
    """Raises BadUsage for a variable that is called like one of *command*'s and sets no option of it, or sets one to
    what it cannot be."""
    options = {parameter.name: parameter for parameter in command.params if parameter.param_type_name == "option"}
    known = {environment_variable(name): option for name, option in options.items()}
    for name in sorted(environ):
        if name in known and environ[name]:
            _check_value(name, known[name], environ[name])
        elif name.startswith(VARIABLE_PREFIX) and environ[name]:
            meant = normalized(name[len(VARIABLE_PREFIX) :].lower())
            near = get_close_matches(meant, options, n=1, cutoff=NEAR_OPTION)
            hint = (
                f"Did you mean {environment_variable(near[0])}?"
                if near
                else "See 'himl submit --help' for the options, or unset it."
            )
            raise BadUsage(f"The variable {name} sets no option of 'himl submit'.", hint=hint)


def _check_value(name: str, option: Any, text: str) -> None:
    if option.multiple:
        return
    try:
        option.type.convert(text, option, None)
    except typer.TyperException as err:
        complaint = "must be true or false" if option.is_flag else getattr(err, "message", str(err)).rstrip(".")
        raise BadUsage(f"The variable {name} cannot be '{text}': {complaint}.") from err


def read_lists_by_line(command: Any) -> None:
    """Let a variable hold several values of an option that may be repeated, one a line, so that values may have
    spaces."""
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.multiple:
            parameter.type = copy(parameter.type)
            parameter.type.split_envvar_value = lambda text: [line for line in text.splitlines() if line.strip()]


def checked(option: Any, setting: Setting) -> Any:
    """The setting's value in the form that the parser takes for *option*. Raises BadUsage for a wrong type or
    choice."""
    value = _fitting(option, setting)
    try:
        option.type_cast_value(None, value)
    except typer.TyperException as err:
        raise setting.wrong(f"cannot be {setting.value!r}: {getattr(err, 'message', err)}") from err
    return value


def _fitting(option: Any, setting: Setting) -> Any:
    value = setting.value
    if option.is_flag:
        if not isinstance(value, bool):
            raise setting.wrong(f"must be true or false, not {value!r}.")
        return value
    if option.multiple:
        return _as_list(setting)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise setting.wrong(f"must be one value, not {value!r}.")
    if isinstance(value, str) and option.type.name.startswith(("int", "float")):
        raise setting.wrong(f"must be a number, not {value!r}.", hint=f"Write it without quotes: {setting.key} = 4")
    if option.type.name == "str" and not isinstance(value, str):
        raise setting.wrong(f"must be text, not {value!r}.", hint=f'Write it in quotes: {setting.key} = "{value}"')
    return str(value)


def _as_list(setting: Setting) -> list[str]:
    """A list, a single value, or a table (`tag.team = "blue"` is `--tag team=blue`, `sweep.lr = [0.1, 0.01]` is
    `--sweep lr=0.1,0.01`)."""
    value = setting.value
    if isinstance(value, Mapping):
        value = [f"{key}={_as_values(setting, entry)}" for key, entry in value.items()]
    return [_as_text(setting, entry) for entry in (value if isinstance(value, list) else [value])]


def _as_values(setting: Setting, entry: Any) -> str:
    if isinstance(entry, list) and normalized(setting.key) == "sweep":
        return ",".join(_as_text(setting, each) for each in entry)
    return _as_text(setting, entry)


def _as_text(setting: Setting, entry: Any) -> str:
    if isinstance(entry, bool):
        return str(entry).lower()
    if not isinstance(entry, (str, int, float)):
        raise setting.wrong(f"must hold plain values, not {entry!r}.")
    return str(entry)

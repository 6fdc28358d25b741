"""Settings of `submit` as defaults of its options, checked against the options they set."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from himl_cli.commands.groups import normalized
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import VARIABLE_PREFIX, environment_variable
from himl_cli.core.redaction import may_be_signed
from himl_cli.core.settings import PRIVATE_FILE, Setting, section_settings
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
        is_text = isinstance(setting.value, str)
        if is_text and setting.file.name != PRIVATE_FILE and may_be_signed(setting.value):
            raise setting.wrong(
                "is a link that may be signed, and this file goes with each job.",
                hint=f"It belongs in {PRIVATE_FILE}, which stays here.",
            )
        settings[name] = setting
        values[name] = _typed(options[name], setting)
    return SettingsMap(settings, values)


def check_variables(command: Any, environ: Mapping[str, str]) -> None:
    """Raises BadUsage for a variable that is called like one of *command*'s and sets no option of it, or sets one to
    what it cannot be."""
    options = {parameter.name: parameter for parameter in command.params if parameter.param_type_name == "option"}
    known = {environment_variable(name): option for name, option in options.items()}
    for name in sorted(name for name in environ if environ[name]):
        text, option = environ[name], known.get(name)
        if option is not None and not option.multiple:
            try:
                option.type.convert(text, option, None)
            except typer.TyperException as err:
                complaint = "must be true or false" if option.is_flag else getattr(err, "message", str(err)).rstrip(".")
                raise BadUsage(f"The variable {name} cannot be '{text}': {complaint}.") from err
        elif option is None and name.startswith(VARIABLE_PREFIX):
            wanted = normalized(name[len(VARIABLE_PREFIX) :].lower())
            near = get_close_matches(wanted, options, n=1, cutoff=NEAR_OPTION)
            hint = "See 'himl submit --help' for the options, or unset it."
            hint = f"Did you mean {environment_variable(near[0])}?" if near else hint
            raise BadUsage(f"The variable {name} sets no option of 'himl submit'.", hint=hint)


def _typed(option: Any, setting: Setting) -> Any:
    """The setting's value in the form that the parser takes for *option*. Raises BadUsage for a wrong type or
    choice."""
    value = setting.value
    if option.is_flag:
        if not isinstance(value, bool):
            raise setting.wrong(f"must be true or false, not {value!r}.")
    elif option.multiple:
        value = _list_of(setting)
    elif isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise setting.wrong(f"must be one value, not {value!r}.")
    elif isinstance(value, str) and option.type.name.startswith(("int", "float")):
        raise setting.wrong(f"must be a number, not {value!r}.", hint=f"Write it without quotes: {setting.key} = 4")
    elif option.type.name == "str" and not isinstance(value, str):
        raise setting.wrong(f"must be text, not {value!r}.", hint=f'Write it in quotes: {setting.key} = "{value}"')
    else:
        value = str(value)
    try:
        option.type_cast_value(None, value)
    except typer.TyperException as err:
        raise setting.wrong(f"cannot be {setting.value!r}: {getattr(err, 'message', err)}") from err
    return value


def _list_of(setting: Setting) -> list[str]:
    """A list, a single value, or a table (`tag.team = "blue"` is `--tag team=blue`, `sweep.lr = [0.1, 0.01]` is
    `--sweep lr=0.1,0.01`)."""

    def text(entry: Any) -> str:
        if not isinstance(entry, (str, int, float)):
            raise setting.wrong(f"must hold plain values, not {entry!r}.")
        return str(entry).lower() if isinstance(entry, bool) else str(entry)

    value, is_sweep = setting.value, normalized(setting.key) == "sweep"
    if isinstance(value, Mapping):
        texts = {key: each if is_sweep and isinstance(each, list) else [each] for key, each in value.items()}
        return [f"{key}={','.join(map(text, entries))}" for key, entries in texts.items()]
    return [*map(text, value if isinstance(value, list) else [value])]

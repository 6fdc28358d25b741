"""Values of `--input` and `--output`: `[KEY=]NAME[:VERSION][,option=value…]`."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from difflib import get_close_matches

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec

KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)
PATH = re.compile(r"\.{1,2}(?:[/\\]|$)|[/\\~]|[A-Za-z]:[/\\]")
"""How a path begins that can be no name of a dataset."""
INPUT_OPTIONS = {"datastore": (), "mode": ("download", "mount"), "target": (), "local": ()}
OUTPUT_OPTIONS = {"datastore": (), "mode": ("mount", "upload"), "local": (), "overwrite": ("true", "false")}


def parse_inputs(values: Sequence[str | DataSpec]) -> list[DataSpec]:
    """All `--input` values, those that are specifications already as they are; keys default to INPUT_0, INPUT_1, …
    Raises BadUsage."""
    return _all("input", values, INPUT_OPTIONS)


def parse_outputs(values: Sequence[str | DataSpec]) -> list[DataSpec]:
    """All `--output` values, those that are specifications already as they are; keys default to OUTPUT_0, OUTPUT_1, …
    Raises BadUsage."""
    return _all("output", values, OUTPUT_OPTIONS)


def _all(kind: str, values: Sequence[str | DataSpec], known: dict[str, tuple[str, ...]]) -> list[DataSpec]:
    specs = [
        value if isinstance(value, DataSpec) else _parse(kind, value, f"{kind.upper()}_{number}", known)
        for number, value in enumerate(values)
    ]
    return _unique(kind, specs)


def _parse(kind: str, text: str, default_key: str, known: dict[str, tuple[str, ...]]) -> DataSpec:
    head, *rest = text.split(",")
    key, equals, name = head.partition("=")
    if not equals:
        key, name = default_key, head
    if not KEY.fullmatch(key):
        raise BadUsage(
            f"--{kind} '{text}': '{key}' cannot be a key.",
            hint="A key becomes part of a variable's name: letters, digits and _, no digit first.",
        )
    options = _options(kind, text, rest, known)
    if PATH.match(name) and "local" not in options:
        raise _is_path(kind, text, name, f"{key}=" if equals else "")
    name, version = _split_version(name) if kind == "input" else (name, None)
    if kind == "output" and (wrong := _split_version(name)[1]) is not None and (wrong.isdigit() or wrong == "latest"):
        raise BadUsage(
            f"--output '{text}': an output has no version, Azure ML counts them.",
            hint=f"Write {name.rpartition(':')[0]} without ':{wrong}'.",
        )
    if not name and "local" not in options:
        raise BadUsage(f"--{kind} '{text}': no name.", hint=f"Write --{kind} [KEY=]NAME[,local=PATH]")
    overwrite = options.pop("overwrite", "true") == "true"
    return DataSpec(key, name, version, overwrite=overwrite, is_folder=False, **options)


def _is_path(kind: str, text: str, path: str, key: str) -> BadUsage:
    """A path stands where a dataset's name belongs."""
    name = re.split(r"[/\\]", path.rstrip("/\\."))[-1] or "data"
    place = os.path.expanduser(path)
    here, there = shlex.quote(f"{key}{name},local={place}"), shlex.quote(f"{key}{name}")
    upload = f"himl datastore upload {shlex.quote(place)} {shlex.quote(name)}, then " if kind == "input" else ""
    return BadUsage(
        f"--{kind} '{text}': '{path}' is a path, and no dataset's name.",
        hint=f"Here: --{kind} {here}. On a cluster: {upload}--{kind} {there}",
    )


def _options(kind: str, text: str, pairs: Sequence[str], known: dict[str, tuple[str, ...]]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if option not in known:
            near = get_close_matches(option, known, n=1)
            raise BadUsage(
                f"--{kind} '{text}': unknown '{option}'.",
                hint=f"Did you mean {near[0]}=…?" if near else f"There are: {', '.join(known)}.",
            )
        if not equals or not value:
            raise BadUsage(f"--{kind} '{text}': '{option}' has no value.", hint=f"Write {option}=VALUE")
        if known[option] and value not in known[option]:
            raise BadUsage(
                f"--{kind} '{text}': {option} cannot be '{value}'.", hint=f"It is one of: {', '.join(known[option])}."
            )
        options[option] = value
    if options.get("target", "").rstrip("/\\") in (".", "./") and "target" in options:
        raise BadUsage(
            f"--{kind} '{text}': target=. is refused: the data would cover the script's own folder.",
            hint="Name another folder.",
        )
    return options


def _split_version(name: str) -> tuple[str, str | None]:
    base, colon, version = name.rpartition(":")
    return (base, version) if colon and base and version else (name, None)


def _unique(kind: str, specs: list[DataSpec]) -> list[DataSpec]:
    keys = [spec.key for spec in specs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise BadUsage(f"Two --{kind} options have the key '{twice}'.", hint=f"Give each its own: --{kind} KEY=NAME")
    return specs

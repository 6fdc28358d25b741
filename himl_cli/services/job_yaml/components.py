"""Components of command jobs: in files of their own, or where they are used."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.services.job_yaml.data import Values, local_path, read_input
from himl_cli.services.job_yaml.document import Part
from himl_cli.services.text_files import read_text
from himl_cli.services.yaml_files import parse_mapping


def component_at(part: Part, key: str) -> Part:
    """The component that *key* names or holds. Raises BadUsage for one that does not lie on this machine."""
    if not isinstance(part.given(key), str):
        return part.part(key)
    path = part.text(key)
    if path.startswith("azureml:"):
        raise part.wrong(
            key,
            f"'{path}' is kept by Azure ML and cannot run here.",
            hint="Name its file, or a cluster with --cluster.",
        )
    found = local_path(part, path)
    if not os.path.isfile(found):  # also for a name that no file system takes
        raise part.wrong(key, f"'{path}' is no file.", hint=f"It is relative to '{part.folder}'.")
    return Part(_shown(part, path), found.parent, parse_mapping(read_text(found, part.prefix + key), Path(path)))


def with_defaults(component: Part, given: Values) -> Values:
    """The values that are *given*, and the defaults of those that are not. Raises BadUsage for an input that has
    neither, unless it is optional."""
    declared = component.part("inputs")
    values = Values(dict(given.literals), dict(given.data))
    for key in declared.content:
        if key in given.literals or key in given.data:
            continue
        found = read_input(declared, key)
        if isinstance(found, str):
            values.literals[key] = found
        elif not isinstance(declared.given(key), dict) or declared.part(key).given("optional") is not True:
            raise declared.wrong(key, "gets no value.", hint="Give one in the job's inputs.")
    return values


def _shown(part: Part, path: str) -> str:
    return str(Path(part.shown).parent / path.removeprefix("file:"))

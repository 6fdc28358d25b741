"""Reading a YAML file that holds a mapping, with errors that name the line. Importing this loads the YAML library."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from himl_cli.core.errors import BadUsage


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """Plain values only, and no key twice: of two the library would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands here a second time", problem_mark=key.start_mark)
                seen.add(key.value)
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made


def parse_mapping(text: str, path: Path) -> Mapping[str, Any]:
    """The mapping in *text*, which was read from *path*. Raises BadUsage naming the file, and the line where there is one."""
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise BadUsage(
            f"'{path}'{line}: {err.problem or err.context}.", hint="The file is no valid YAML; lists and sections are told apart by indentation."
        ) from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:  # a date that does not exist is a ValueError
        raise BadUsage(f"'{path}' is no valid YAML: {' '.join(str(err).split())}.") from err
    if not isinstance(content, dict):
        raise BadUsage(f"'{path}' holds no sections, but {'nothing' if content is None else 'a ' + type(content).__name__}.")
    return {str(key): value for key, value in content.items()}


def dump_mapping(content: Mapping[str, Any]) -> str:
    """*content* as YAML, keys in their order, a line each: the same content is the same text."""
    text: str = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=False, allow_unicode=True, width=10_000)
    return text

"""Reader of YAML files that contain a mapping, with errors that name the line. Importing this module loads the YAML
library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.json_text import DEEPEST
from himl_cli.core.text import shorten

LARGEST_YAML = 512 << 10  # characters of a file, which the library parses in a second
# Values of a file, including keys, with aliases (`*name`) expanded, because code that walks, merges or writes the
# content processes all of them
MOST_VALUES = 20_000
# Characters of a number. Integers of this length, including hexadecimal ones, still fit into floating point.
LONGEST_NUMBER = 250

TOO_MUCH = "Use fewer aliases and levels, and check that it is the right file."
NO_YAML = "The file is not valid YAML. Check its indentation."

_TAG = "tag:yaml.org,2002:"
_SURROGATES = re.compile("[\ud800-\udfff]")
# Text that the library quotes in its errors. A password that begins with `*`, `&` or `!` looks like such a name.
_QUOTED = re.compile(r"(alias|anchor|tag|tag handle) '[^']*'")


class _TooMuch(yaml.MarkedYAMLError):  # type: ignore[misc]  # the library has no types
    """Valid YAML with more values or levels than any settings file needs."""


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """Loader for plain values, with limits on their number and depth. It rejects duplicate keys, of which the library
    would silently use the last."""

    _values = _depth = 0

    def get_single_node(self) -> Any:
        root = super().get_single_node()
        if root is not None:
            _extent(root, {})
        return root

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._values += 1
        self._depth += 1
        _check_extent(self._values, self._depth, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                if key.value in seen:
                    raise _refused(f"the key '{key.value}' occurs twice", key.start_mark)
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: Any) -> None:
        """Expand merges (`<<`): own keys override merged ones, and earlier mappings override later ones (YAML 1.1,
        https://yaml.org/type/merge.html). PyYAML 6.0.4 uses another order (its issue 953)."""
        own, merged = list[tuple[Any, Any]](), list[tuple[Any, Any]]()
        for key, value in node.value:
            if key.tag != f"{_TAG}merge":
                own.append((key, value))
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    raise _refused("only mappings can be merged", source.start_mark)
                self.flatten_mapping(source)
                merged = [*source.value, *merged]
        node.value = [*merged, *own]
        super().flatten_mapping(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and len(node.value) > LONGEST_NUMBER:
            raise _refused("the number is too long", node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as err:
            # The library raises these, for example for `!!bool maybe` and for a date that does not exist
            shown = f"'{node.value}'" if isinstance(node.value, str) else "the value"
            raise _refused(f"{shown} is not a valid {node.tag.rpartition(':')[2]}", node.start_mark) from err
        if isinstance(value, str) and _SURROGATES.search(value):
            try:  # joins surrogate pairs (`\ud83d\ude00`), as JSON writes them
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError as err:
                raise _refused("the text contains half a surrogate pair", node.start_mark) from err
        return value


def _extent(node: Any, known: dict[Any, tuple[int, int] | None]) -> tuple[int, int]:
    """The number of values in *node* and their depth, with aliases expanded. *known* has the results for previous
    nodes, and None for the parents of *node*. Raises yaml.MarkedYAMLError for too many or too deep values, and for a
    value that contains itself."""
    if node in known:
        if (extent := known[node]) is None:
            raise _TooMuch(problem="the value contains itself", problem_mark=node.start_mark)
        return extent
    known[node] = None
    children = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [each for pair in node.value for each in pair]
    count, depth = 1, 0
    for child in children:
        within, below = _extent(child, known)
        count, depth = count + within, max(depth, below)
        _check_extent(count, depth + 1, node.start_mark)
    known[node] = (count, depth + 1)
    return count, depth + 1


def _check_extent(values: int, depth: int, mark: Any) -> None:
    if values > MOST_VALUES:
        raise _TooMuch(
            problem=f"there are more than {MOST_VALUES:,} values, with aliases (*name) and merges (<<) expanded",
            problem_mark=mark,
        )
    if depth > DEEPEST:
        raise _TooMuch(problem=f"values have more than {DEEPEST} levels", problem_mark=mark)


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def parse_mapping(text: str, path: Path) -> Mapping[str, Any]:
    """The mapping in *text*, the content of *path*. Raises BadUsage, with the file and, if known, the line."""
    if len(text) > LARGEST_YAML:
        raise BadUsage(
            f"'{path}' is too large for YAML: it has {len(text):,} characters, and the limit is {LARGEST_YAML:,}.",
            hint="Check that it is the right file.",
        )
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        # The file may contain secrets, so *err* must not quote it, neither in its message nor by the lines below it
        for each in filter(None, (err.problem_mark, err.context_mark)):
            each.buffer = None
        err.problem, err.context = (text and _QUOTED.sub(r"\1", text) for text in (err.problem, err.context))
        line = f", line {mark.line + 1}" if mark else ""
        raise BadUsage(
            f"'{path}'{line}: {shorten(err.problem or err.context)}.",
            hint=TOO_MUCH if isinstance(err, _TooMuch) else NO_YAML,
        ) from err
    except yaml.YAMLError as err:
        raise BadUsage(f"'{path}' is not valid YAML: {shorten(' '.join(str(err).split()))}.") from err
    if not isinstance(content, dict):
        raise BadUsage(
            f"'{path}' must contain sections, not {'nothing' if content is None else 'a ' + type(content).__name__}."
        )
    return {str(key): value for key, value in content.items()}


def written_as(text: str, keys: Sequence[str]) -> str:
    """The plain value of the nested *keys* as *text* spells it, such as `1.10` for the number 1.1. Empty for a value
    that comes from elsewhere in the text."""
    node = yaml.compose(text, Loader=_StrictLoader)
    for key in keys:
        node = next((value for name, value in getattr(node, "value", ()) if name.value == key), None)
    return str(getattr(node, "value", ""))


def dump_mapping(content: Mapping[str, Any]) -> str:
    """*content* as YAML, with keys in their order and one value per line, so that equal contents have equal texts."""
    text: str = yaml.safe_dump(
        dict(content), sort_keys=False, default_flow_style=False, allow_unicode=True, width=10_000
    )
    return text

"""Reading a YAML file that holds a mapping, with errors that name the line. Importing this loads the YAML library."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.text import DEEPEST, shorten

LARGEST = 512 << 10  # characters of a file; the library needs a second for so many
# Values of a file, keys among them, each alias (`*name`) counted as all that it stands for: whatever walks, merges or
# writes the content meets so many
MOST_VALUES = 20_000
# Characters of a number: whole ones of so many digits are numbers to floating point too, hexadecimal ones among them
LONGEST_NUMBER = 250

TOO_MUCH = "Write it out with fewer aliases and levels; is it the file that was meant?"
NO_YAML = "The file is no valid YAML; lists and sections are told apart by indentation."

_TAG = "tag:yaml.org,2002:"
_SURROGATES = re.compile("[\ud800-\udfff]")
# What the library quotes in its complaints: a password that begins with `*`, `&` or `!` reads as the name of such a
# thing
_QUOTED = re.compile(r"(alias|anchor|tag|tag handle) '[^']*'")


class _TooMuch(yaml.MarkedYAMLError):  # type: ignore[misc]  # the library has no types
    """YAML indeed, and more of it than any file of settings has."""


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """Plain values only, as many and as deep as a file of settings may have; no key twice: of two the library would
    silently take the last."""

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
                    raise _refused(f"the key '{key.value}' stands here a second time", key.start_mark)
                seen.add(key.value)
        return node

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
        ) as err:  # the library's, for `!!bool maybe` and a date that does not exist
            shown = f"'{node.value}'" if isinstance(node.value, str) else "this"
            raise _refused(f"{shown} is no {node.tag.rpartition(':')[2]}", node.start_mark) from err
        if isinstance(value, str) and _SURROGATES.search(value):
            try:  # characters that stand in two halves (`\ud83d\ude00`, as JSON writes them)
                return value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError as err:
                raise _refused("the text has half a character in it", node.start_mark) from err
        return value


def _extent(node: Any, known: dict[Any, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values *node* stands for, and how deep these are, where each alias is written out; *known* are nodes
    that stand before it, None those that it is in. Raises yaml.MarkedYAMLError where they are too many or too deep, and
    where a value is part of itself."""
    if node in known:
        if (extent := known[node]) is None:
            raise _TooMuch(problem="the value is part of itself", problem_mark=node.start_mark)
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
            problem=f"there are more than {MOST_VALUES:,} values, aliases (*name) and merges (<<) written out",
            problem_mark=mark,
        )
    if depth > DEEPEST:
        raise _TooMuch(problem=f"values are nested to more than {DEEPEST} levels", problem_mark=mark)


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def parse_mapping(text: str, path: Path) -> Mapping[str, Any]:
    """The mapping in *text*, which was read from *path*. Raises BadUsage naming the file, and the line where there is
    one."""
    if len(text) > LARGEST:
        raise BadUsage(
            f"'{path}' is too large for YAML: {len(text):,} characters, and {LARGEST:,} are the most.",
            hint="Is it the file that was meant?",
        )
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        # the file may hold secrets: *err* is not to quote it, neither in its words nor by the lines shown below them
        for each in filter(None, (err.problem_mark, err.context_mark)):
            each.buffer = None
        err.problem, err.context = (text and _QUOTED.sub(r"\1", text) for text in (err.problem, err.context))
        line = f", line {mark.line + 1}" if mark else ""
        raise BadUsage(
            f"'{path}'{line}: {shorten(err.problem or err.context)}.",
            hint=TOO_MUCH if isinstance(err, _TooMuch) else NO_YAML,
        ) from err
    except yaml.YAMLError as err:
        raise BadUsage(f"'{path}' is no valid YAML: {shorten(' '.join(str(err).split()))}.") from err
    if not isinstance(content, dict):
        raise BadUsage(
            f"'{path}' holds no sections, but {'nothing' if content is None else 'a ' + type(content).__name__}."
        )
    return {str(key): value for key, value in content.items()}


def dump_mapping(content: Mapping[str, Any]) -> str:
    """*content* as YAML, keys in their order, a line each: the same content is the same text."""
    text: str = yaml.safe_dump(
        dict(content), sort_keys=False, default_flow_style=False, allow_unicode=True, width=10_000
    )
    return text

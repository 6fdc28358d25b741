"""The options that a Python script defines, as evidence of how it takes the values of a sweep: as one word, as several,
or as a switch. himl parses the script, and never runs it."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import Entry, EntryKind
from himl_cli.core.sweeps import (
    NEGATABLE,
    PLACEHOLDER,
    SWITCH,
    SWITCH_WORDS,
    SWITCHES,
    WORDS,
    Draw,
    SearchRange,
    SweepSpec,
    value_text,
)
from himl_cli.services.submission.sweeps import typed_value

LARGEST_SCRIPT = 1 << 20  # bytes of a script, which Python parses in a second


def with_forms(
    spec: SweepSpec, entry: Entry, script: Path | None, arguments: Sequence[str]
) -> tuple[SweepSpec, list[str]]:
    """*spec* with the forms of values that the Python file *script* (None for another kind of job) shows, and remarks
    on these, and on values that may need a form. *arguments* are the user's, whose placeholders stay as they are.
    Raises BadUsage for forms of a command line, which has no list of arguments."""
    known = script_options(script) if script else {}
    used = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument)}
    space, remarks = dict(spec.space), list[str]()
    for name, found in spec.space.items():
        texts = [value_text(value) for value in found.values]
        if found.form and entry.kind is EntryKind.command:
            raise BadUsage(
                f"--sweep {name}: {found.form}(…) needs a script, but the job is a command line.",
                hint=f"List the words: --sweep '{name}=--{name},--no-{name}' and ${{{{search_space.{name}}}}}",
            )
        if found.form or found.draw is not Draw.choice or name in used or script is None:
            continue
        form, several = known.get(name), next((text for text in texts if len(text.split()) > 1), "")
        if form in SWITCHES and {text.lower() for text in texts} <= {*SWITCH_WORDS}:
            off = f"--no-{name}" if form == NEGATABLE else "nothing"
            remarks.append(f"{name}: --{name} of '{script.name}' takes no value. himl passes --{name} or {off}.")
        elif form == WORDS and several and all(map(_is_closed, texts)):
            remarks.append(f"{name}: --{name} of '{script.name}' takes several words, so himl splits '{several}'.")
        else:
            if form is None and {text.lower() for text in texts} <= {"true", "false"}:
                remarks.append(f"{name}: the script gets --{name} {texts[0]}. For a switch: --sweep '{name}=switch()'")
            elif form is None and several:
                wanted = f"--sweep '{name}=words({','.join(map(typed_value, texts))})'"
                remarks.append(f"{name}: the script gets '{several}' as one word. For several words: {wanted}")
            continue
        space[name] = SearchRange(found.draw, found.values, str(form))
    return replace(spec, space=space), remarks


def _is_closed(text: str) -> bool:
    with suppress(ValueError):
        return bool(shlex.split(text))
    return False


def script_options(script: Path) -> Mapping[str, str]:
    """The form of each option that *script* defines with argparse, click or typer, by its name without dashes: a form
    of SearchRange, or '' for one value. Without options whose form is unclear, and empty for a file that is no
    Python."""
    try:
        with script.open("rb") as stream:
            tree = ast.parse(stream.read(LARGEST_SCRIPT))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, set[str | None]] = {}
    for name, form in _defined(tree):
        found.setdefault(name, set()).add(form)
    return {name: form for name, forms in found.items() if len(forms) == 1 and (form := next(iter(forms))) is not None}


def _defined(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    nodes = list(ast.walk(tree))
    has_typer = any(isinstance(node, ast.alias) and node.name == "typer" for node in nodes)
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and has_typer:
            yield from ((each.arg, NEGATABLE) for each in node.args.args if _text(each.annotation) == "bool")
        called = node.func if isinstance(node, ast.Call) else None
        if not isinstance(node, ast.Call) or _text(called).rpartition(".")[2] not in (
            "add_argument",
            "option",
            "Option",
        ):
            continue
        given = {word.arg: word.value for word in node.keywords}
        for argument in node.args:
            declared = argument.value if isinstance(argument, ast.Constant) else None
            if isinstance(declared, str) and declared.startswith("--"):
                name, slash, off = declared.removeprefix("--").partition("/")
                yield name, _form(name, given, off if slash else None)


def _form(name: str, given: Mapping[str | None, ast.expr], off: str | None) -> str | None:
    """The form of the option *name* with these keyword arguments. None if unclear. *off* is click's negative name."""
    if None in given or off not in (None, f"--no-{name}"):  # `**options`, or another name
        return None
    action, nargs = _text(given.get("action")), _text(given.get("nargs"))
    if off is not None or action.endswith("BooleanOptionalAction"):
        return NEGATABLE
    if action == "'store_true'" or _text(given.get("is_flag")) == "True":
        return SWITCH
    if nargs in ("'+'", "'*'") or (nargs.isdigit() and int(nargs) > 1):
        return WORDS
    return "" if action in ("", "'store'") and nargs in ("", "1", "'?'") else None


def _text(node: ast.expr | None) -> str:
    return "" if node is None else ast.unparse(node)

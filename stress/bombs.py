"""Documents, patterns and numbers that could run forever or fill the memory, used in real commands. Linux only
(/proc).
"""

from __future__ import annotations

import io
import math
import os
import random
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

from himl_cli.core.files import LONGEST_GLOB
from stress.names import COMMANDS, HostileWorkspace, changes, raw_signs, tree_of
from stress.records import Case, Result
from stress.world import Measured, World, judge, measured
from tests.support.running import PROGRAM, write_files

A_CELL = 4
LONGEST_SAID = 4000  # signs in all
SECONDS, MOST_SECONDS = (
    5.0,
    60.0,
)  # of processor time, and of any: on a machine that has other things to do, five of its own may take long
MEMORY = 512 << 20  # bytes of address space
_BOUNDED = (
    "import os, resource, sys\nresource.setrlimit(resource.RLIMIT_AS, ({0}, {0}))\nos.execv(sys.argv[1], sys.argv[1:])"
)
REFUSED, NOT_FOUND, FAILED, BROKEN = frozenset({2}), frozenset({3}), frozenset({5}), frozenset({6})
DONE = frozenset({0})
JOB = "type: command\ncommand: python fit.py\nenvironment: azureml:lab@latest\n"
STEP = '{"step1": {"type": "PythonScriptStep", "script": "fit.py", "source_directory": ".", "arguments": @}}'
SUBMIT = ("submit", "fit.py", "--dry_run")


@dataclass(frozen=True)
class Bomb:
    """*arguments* of a command in a folder with *files*, which may end with one of *codes*. `listing` is a storage
    account's reply to a list request.
    """

    arguments: Sequence[str]
    codes: frozenset[int]
    files: Mapping[str, bytes] = field(default_factory=dict)
    listing: bytes | None = None


def _many(dice: random.Random, low: int, high: int) -> int:
    return int(low * math.pow(high / low, dice.random()))


def _yaml(dice: random.Random) -> Bomb:
    width, depth, size = dice.randint(5, 12), dice.randint(6, 12), _many(dice, 3000, 300_000)
    levels = "".join(
        f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * width)}]}}\n" for level in range(1, depth)
    )
    lists = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]\n" for level in range(1, depth))
    texts = [
        f"a0: &a0 {{x: 1}}\n{levels}{JOB}",
        f"a0: &a0 [x]\n{lists}{JOB}tags: {{big: *a{depth - 1}}}\n",
        f"{JOB}tags: {'[' * size}",
        f"{JOB}tags: {'{a: ' * size}",
        f"{JOB}tags: {{a: {'9' * size}}}\n",
        f"{JOB}tags: !!python/object/apply:os.system ['echo escaped']\n",
        "- " * size,
        "? " * size,
        f"{JOB}tags: &a [*a]\n",
    ]
    return Bomb(("submit", "job.yml", "--dry_run"), REFUSED, {"job.yml": dice.choice(texts).encode()})


def _toml(dice: random.Random) -> Bomb:
    size = _many(dice, 3000, 1_000_000)
    texts = [
        f"[submit]\ntag = {'[' * size}",
        f"[submit]\ntag = {'{a=' * (size // 3)}",
        f"[submit]\nnum_nodes = {'9' * size}",
        f"[submit]\nnum_nodes = 0x{'f' * size}",
        f"[submit]\n{'a.' * (size // 2)}b = 1",
        f"[submit]\n[{'a.' * (size // 2)}b",
        f"[submit]\ncluster = '''{'x' * size}",
        f"[submit]\ncluster = {'x' * size}",
    ]
    text, name = dice.choice(texts), dice.choice(["himl.toml", "pyproject.toml"])
    return Bomb(
        SUBMIT,
        REFUSED,
        {name: text.replace("[submit]", "[tool.himl.submit]" if name != "himl.toml" else "[submit]").encode()},
    )


def _json(dice: random.Random) -> Bomb:
    size = _many(dice, 3000, 1_000_000)
    texts = [
        "[" * size,
        '{"a":' * (size // 5),
        f'{{"subscription_id": {"9" * size}}}',
        f'{{"subscription_id": "{"x" * size}',
        '"' * size,
        " " * size,
    ]
    return Bomb(("runs", "list", "--config_file", "other.json"), REFUSED, {"other.json": dice.choice(texts).encode()})


def _pipeline(dice: random.Random) -> Bomb:
    size = _many(dice, 3000, 1_000_000)
    inside = dice.choice(
        [
            "[" * size,
            "9" * size,
            f"[{'9' * size}]",
            '"' + "x" * size,
            "{" * size,
            f'{{"a": {"[" * 2000 + "]" * 2000}}}',
            "1e" + "9" * 400,
        ]
    )
    return Bomb(
        ("submit", "pipeline.json", "--dry_run"), REFUSED, {"pipeline.json": STEP.replace("@", inside).encode()}
    )


def _sweep(dice: random.Random) -> Bomb:
    size = _many(dice, 400, 100_000)
    numbers = "9" * size
    specs = [
        f"randint({numbers})",
        f"uniform(0,{numbers})",
        "choice(" * (size // 7),
        "(" * size,
        f"loguniform(1e{numbers},1)",
        "quniform(0,1e308,1e-308,",
    ]
    return Bomb((*SUBMIT, "--sweep", f"x={dice.choice(specs)}"), REFUSED)


def _numbers(dice: random.Random) -> Bomb:
    number = dice.choice(["9", "1", "-1", "٣"]) * _many(dice, 400, 100_000)
    option, value = dice.choice(
        [
            ("--max_run_duration", f"{number}s"),
            ("--num_nodes", number),
            ("--shm_size", f"{number}x"),
            ("--max_trials", number),
        ]
    )
    codes = DONE if option == "--shm_size" else REFUSED  # passed over, unread, by a job that runs here
    return Bomb((*SUBMIT, option, value, "--sweep", "x=uniform(0,1)" if option == "--max_trials" else "x=1,2"), codes)


def _glob(dice: random.Random) -> Bomb:
    piece, last = dice.choice(["*a", "**a", "**/a", "*[!b]", "?*", "**a**/", "a*a*"]), dice.choice(["b", "[bc]", "/b"])
    glob = piece * dice.choice([8, 25, 60, 1000, 20_000]) + last
    name = f".himl/datastores/local/{'a' * 60}/{'a/' * 20}{'a' * 200}"
    return Bomb(
        ("datastore", "list", "--include", glob), REFUSED if len(glob) > LONGEST_GLOB else NOT_FOUND, {name: b"x"}
    )


def _ignore(dice: random.Random) -> Bomb:
    piece, last = dice.choice(["*a", "**a", "**/a/", "*[!b]", "?*", "a/**/", "[a]*"]), dice.choice(["b", "[bc]", "/b"])
    line = piece * dice.choice([8, 25, 60, 1000, 20_000]) + last
    deep = {f"{'a/' * 30}{'a' * 200}": b"x", "a" * 250: b"x"}
    return Bomb(SUBMIT, DONE, {dice.choice([".gitignore", ".amlignore"]): f"{line}\n!{line}\n".encode(), **deep})


def _csv(dice: random.Random) -> Bomb:
    size = _many(dice, 131_073, 2_000_000)
    head = "image,slide_id\n"
    text = dice.choice(
        [
            "x" * size,
            '"' * size,
            f'{head}"{"x" * size}',
            "image" + "," * size,
            head + "," * size,
            "\0" * size,
            "\r" * size,
        ]
    )
    if dice.random() < 0.5:
        return Bomb(("montage", "data.csv"), REFUSED | NOT_FOUND, {"data.csv": text.encode()})
    return Bomb(
        ("montage", ".", "--include_by_slide_id", "ids.csv"),
        REFUSED | NOT_FOUND,
        {"ids.csv": text.encode(), "a.png": b"no picture"},
    )


def _slides(dice: random.Random) -> Bomb:
    glob = dice.choice(["**/", "*a", "**/a/", "[!b]*", "**/*/"]) * dice.choice([25, 1000, 20_000]) + "b"
    return Bomb(
        ("montage", "slides", "--image_glob", glob), REFUSED | NOT_FOUND, {f"slides/{'a/' * 30}{'a' * 200}": b"x"}
    )


def _xml(dice: random.Random) -> Bomb:
    size, depth = _many(dice, 3000, 1_000_000), dice.randint(8, 12)
    lol = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, depth))
    blob = "<Blob><Name>@</Name><Properties><Content-Length>#</Content-Length></Properties></Blob>"
    page = f"<EnumerationResults><Blobs>{blob}</Blobs><NextMarker /></EnumerationResults>"
    texts = [
        f'<!DOCTYPE a [<!ENTITY l0 "lol">{lol}]>' + page.replace("@", f"&l{depth - 1};"),
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{page}'.replace("@", "&x;"),
        f'<!DOCTYPE a [<!ENTITY x "{"x" * size}">]>' + page.replace("@", "&x;" * 10_000),
        "<a>" * size,
        page.replace("#", "9" * size).replace("@", "a"),
        page.replace("#", "-5").replace("@", "a"),
        page.replace("#", "1").replace("@", "a")[: -dice.randint(1, 100)],
        '<?xml version="1.0" encoding="utf-7"?>' + page,
    ]
    return Bomb(("datastore", "list", "--datastore", "hostile"), FAILED, listing=dice.choice(texts).encode())


def _zip(dice: random.Random) -> Bomb:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for number in range(dice.choice([1, 3, 2000])):
            archive.writestr(zipfile.ZipInfo(f"lab/{number}.py"), bytes(dice.choice([10, 1000])), zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo("lab/zeros"), bytes(5_000_000), zipfile.ZIP_DEFLATED)
    content, codes = made.getvalue(), DONE
    if dice.random() < 0.5:
        content, codes = content[: dice.randrange(9, len(content) // 2)], BROKEN
    return Bomb(("checkpoint", "fetch", "last.ckpt"), codes, {"last.ckpt": content})


def _safetensors(dice: random.Random) -> Bomb:
    size = _many(dice, 3000, 5_000_000)
    header = dice.choice(
        [b"[" * size, b'{"a":' * (size // 5), b'{"a": {"data_offsets": [0, ' + b"9" * size + b"]}}", b"9" * size]
    )
    told = dice.choice([len(header), len(header) * 2, 1 << 62, (1 << 64) - 1, 99_999_999])
    content = told.to_bytes(8, "little") + header
    return Bomb(("checkpoint", "fetch", "last.safetensors"), BROKEN, {"last.safetensors": content})


BOMBS = (_yaml, _toml, _json, _pipeline, _sweep, _numbers, _glob, _ignore, _csv, _slides, _xml, _zip, _safetensors)


def bomb_cases() -> list[Case]:
    return [
        Case(f"names/bombs/{make.__name__[1:]}/{number:02d}", partial(_run, make))
        for make in BOMBS
        for number in range(A_CELL)
    ]


def _run(make: Callable[[random.Random], Bomb], world: World, dice: random.Random) -> Result:
    bomb = make(dice)
    write_files(world.project, {"fit.py": b"print('fitted')\n", ".himl/x": b"", **bomb.files})
    before = tree_of(world.project)
    done = _set_off(world, bomb)
    changed = [
        f"in the folder {one}"
        for one in changes(before, tree_of(world.project))
        if not one.startswith(("'.himl", "'.amlignore"))
    ]
    verdict = judge(done.ended, bomb.codes, bomb_problems(done) + changed, prints=True)
    return world.told(verdict, done.ended, done.wall, 1, cpu=round(done.cpu, 1), memory=round(done.peak))


def _set_off(world: World, bomb: Bomb) -> Measured:
    command = [sys.executable, "-c", _BOUNDED.format(MEMORY), str(PROGRAM), *bomb.arguments]
    hostile = world.lasting("names", HostileWorkspace) if bomb.listing is not None else None
    env = world.environment(hostile.staged if hostile else None)
    with hostile.listing(COMMANDS["datastore"], (), bomb.listing) if hostile is not None else nullcontext():
        if hostile is not None:
            hostile.staged.write_config(world.folder)
            (world.project / ".himl" / "x").unlink()
            (world.project / ".himl").rmdir()
        return measured(command, world.folder / "stdout", world.project, os.environ | env, MOST_SECONDS)


def bomb_problems(done: Measured) -> list[str]:
    wrong = [f"it took {done.cpu:.1f} s"] if done.cpu > SECONDS else []
    wrong += [f"it took {done.peak:.0f} MiB"] if done.peak > MEMORY >> 20 else []
    if done.ended is None or done.ended.code == 0:
        return wrong
    lines = done.ended.stderr.splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    if len(told) != 1 or any(not line.startswith(("error: ", "hint: ", "Sweep: ")) for line in lines):
        wrong.append(f"it says {len(lines)} lines: {lines[:3]}")
    if len(done.ended.stderr) > LONGEST_SAID:
        wrong.append(f"it says {len(done.ended.stderr):,} signs")
    if done.ended.stdout:
        wrong.append(f"on stdout: {done.ended.stdout[:100]!r}")
    return wrong + ([f"raw signs: {raw}"] if (raw := raw_signs(done.ended.stderr)) else [])

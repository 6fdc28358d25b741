"""Every block of the documents names how it runs, and does what it says, locally or on the double of Azure ML."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.docs import worlds
from tests.docs.blocks import ELSEWHERE, PRELUDES, REASONS, ROOT, Block, chains, pages, problems, read
from tests.docs.running import Chain, commands_of
from tests.docs.worlds import World
from tests.support.azure import Az, token_of
from tests.support.running import PROGRAM

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for bash"), pytest.mark.timeout(600)]


def lines_of(chain: list[Block]) -> set[tuple[str, str]]:
    """The commands with their world, without comments and surrounding spaces."""
    bodies = [
        "\n".join(command for command, _ in commands_of(block.body)) if block.kind == "console" else block.body
        for block in chain
    ]
    lines = "\n".join(bodies).replace("\\\n", " ").splitlines()
    return {(chain[0].world, " ".join(re.sub(r"\s#.*", "", line).split())) for line in lines if line.strip()}


def is_plain(chain: list[Block]) -> bool:
    return all(
        block.kind in ("sh", "console") and set(block.marker.words if block.marker else ()) <= {"more"}
        for block in chain
    )


def chosen() -> dict[str, list[list[Block]]]:
    """The chains by page and world, the longest first, without plain commands that are part of another chain of that
    world.
    """
    found, run = [(name, chain) for name in pages() for chain in chains(read(name))], set[tuple[str, str]]()
    kept: dict[str, list[list[Block]]] = {}
    for name, chain in sorted(found, key=lambda each: (is_plain(each[1]), -len(lines_of(each[1])))):
        if not is_plain(chain) or not lines_of(chain) <= run:
            run |= lines_of(chain)
            kept.setdefault(f"{name}, {chain[0].world}", []).append(chain)
    return {name: sorted(chains, key=lambda chain: chain[0].line) for name, chains in kept.items()}


CHAINS = chosen()
NOT_RUN = {"az-infrastructure": 16, "pip": 12, "ssh": 6, "checkout": 1, "debugger": 1, "group": 1, "live": 2}
"""The number of blocks that do not run, by reason. Change these numbers only intentionally."""
RUN = "<!-- run: here -->\n```sh\nhiml runs list\n```\n"


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    name = request.node.callspec.params["name"].rpartition(", ")[2]
    folder = tmp_path / ("himl" if name == "example" else "lab")
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    if name == "slurm":
        return worlds.slurm(folder, request.getfixturevalue("slurm").programs)
    if name == "ssh":
        return worlds.ssh(folder, request.getfixturevalue("box"))
    if name == "gpus":
        world = worlds.here(folder)
        return replace(world, variables={**world.variables, **request.getfixturevalue("nvml"), "NVML_GPUS": "4"})
    if name in ("lightning", "runner"):
        return {"lightning": worlds.lightning, "runner": worlds.runner}[name](
            folder, request.getfixturevalue("lightning_packages")
        )
    if name == "recipes":
        return worlds.recipes(folder, request.getfixturevalue("recipes_python"))
    if name == "dsa":
        return worlds.dsa(folder, request.getfixturevalue("archive"))
    if name not in ("azure", "slides"):
        found: World = getattr(worlds, name)(folder)
        return found
    staged = request.getfixturevalue("azure")
    az = Az(tmp_path / "az")
    az.answer(token_of(staged.state.principal))
    if name == "slides":
        return worlds.slides(folder, staged, az.folder)
    return worlds.azure(
        folder, staged, az.folder, with_examples="docs/examples/" in request.node.callspec.params["name"]
    )


@pytest.mark.parametrize("name", CHAINS)
def test_blocks_do_what_they_say(name: str, world: World, tmp_path: Path) -> None:
    """Run the blocks of a page that share a world, in order. A block without `more` starts with the original folder."""
    (tmp_path / "scratch").mkdir()
    shutil.copytree(world.folder, tmp_path / "untouched")
    for number, chain in enumerate(CHAINS[name]):
        if number:
            world.folder.rename(tmp_path / f"used_{number}")
            shutil.copytree(tmp_path / "untouched", world.folder)
        running = Chain(world, tmp_path / "scratch")
        for block in chain:
            running.run(block)


def test_every_block_says_how_it_is_run() -> None:
    found = [read(name) for name in pages()]
    assert [problem for page in found for problem in problems(page)] == []
    all_blocks = [block for page in found for block in page.blocks]
    assert Counter(block.value("not") for block in all_blocks if block.value("not")) == NOT_RUN
    assert set(NOT_RUN) <= set(REASONS)
    assert [pattern for pattern in ELSEWHERE if not list(ROOT.glob(pattern))] == []
    used = {(block.value("prelude"), block.kind == "python") for block in all_blocks}
    assert {(path.stem, path.suffix == ".py") for path in PRELUDES.iterdir() if path.is_file()} == used - {
        ("", True),
        ("", False),
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```sh\nls\n```\n", "page.md:1: no marker, and the page has none"),
        ("<!-- runs: here -->\n```sh\nls\n```\n", ""),
        ("<!-- run: there -->\n```sh\nls\n```\n", "page.md:2: there is no world 'there'"),
        (
            "<!-- run: here -->\n\n```sh\nls\n```\n",
            "page.md:1: a marker that is not understood, or that no block follows",
        ),
        ("<!-- run: here quick -->\n```sh\nls\n```\n", "page.md:2: the word 'quick'"),
        (
            RUN + "<!-- run: azure more -->\n```sh\nls\n```\n",
            "page.md:6: there is no block of the world 'azure' above that it could go on from",
        ),
        ("```text\nhiml runs list\n```\n", "page.md:1: commands in a block that is not run"),
        ("Do this:\n\n    himl runs list\n", "page.md:3: a command without a fence: himl runs list"),
    ],
)
def test_block_that_tests_would_not_run_is_named(text: str, problem: str) -> None:
    found = problems(read("page.md", text))
    assert problem in found or (found, problem) == ([], "")


@pytest.mark.parametrize(
    "fence",
    [
        "```sh\nfalse | cat",
        "exit=2 ```sh\nexit 3",
        "shows ```console\n$ echo one\ntwo",
        "shows ```console\n$ echo loss 0.512\nloss 0.7",
        "```python\nimport warnings\nwarnings.warn('old')",
        "```yaml\na: [",
        '```toml\n[submit]\nclustr = "gpu"',
        "until=up ```sh\n"
        'python -c \'import signal, time; signal.signal(2, lambda *_: exit(3)); print("up", flush=True); '
        "time.sleep(60)'",
    ],
)
def test_block_that_fails_is_noticed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fence: str
) -> None:
    """Each case is a fence after the words of its marker."""
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "scratch").mkdir()
    words, _, rest = fence.partition("```")
    (block,) = read("page.md", f"<!-- run: here {words}-->\n```{rest}\n```\n").blocks
    with pytest.raises((AssertionError, yaml.YAMLError)) as caught:
        Chain(World(project, worlds.variables()), tmp_path / "scratch").run(block)
    assert "page.md" in str(caught.value) or not isinstance(caught.value, AssertionError)

"""The blocks of the documents do what they say: each is run, here or on the double of Azure ML."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.docs import worlds
from tests.docs.blocks import Block, chains, read
from tests.docs.pages import NOT_YET, pages
from tests.docs.program import program
from tests.docs.running import Chain
from tests.docs.worlds import World
from tests.support.azure import Az, token_of

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for bash"), pytest.mark.timeout(600)]

CHAINS = [chain for name in pages() if name not in NOT_YET for chain in chains(read(name))]


@pytest.fixture(scope="module")
def himl_on_path() -> Iterator[Path]:
    """The folder of a program `himl` that starts fast."""
    with TemporaryDirectory(prefix="himl_docs_") as folder, program(Path(folder, "bin")) as found:
        yield found


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, himl_on_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """That of the test's chain."""
    name = request.node.callspec.params["chain"][0].world
    folder = tmp_path / ("himl" if name == "example" else "lab")
    folder.mkdir()
    programs = (str(himl_on_path), str(Path(sys.executable).parent), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(programs))
    if name not in ("azure", "slides"):
        found: World = getattr(worlds, name)(folder)
        return found
    staged = request.getfixturevalue("azure")
    az = Az(tmp_path / "az")
    az.answer(token_of(staged.state.principal))
    build = worlds.azure if name == "azure" else worlds.slides
    return build(folder, staged, az.folder)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0].where)
def test_blocks_do_what_they_say(chain: list[Block], world: World, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    running = Chain(world, scratch)
    for block in chain:
        running.run(block)

"""Tests of the permissions of all that himl creates, with each umask."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.azureml_double.seeding import DEFAULT, StagedWorkspace
from tests.support.running import Himl, write_files
from tests.support.ssh import SshServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
TRAIN = """
from pathlib import Path
from himl_cli import RUN_CONTEXT
RUN_CONTEXT.log("loss", 0.5)
Path("outputs").mkdir(exist_ok=True)
Path("outputs/model.txt").write_text("model")
"""
SETTINGS = """
variables:
  subscription_id: 0a0a0a0a-0a0a-0a0a-0a0a-0a0a0a0a0a0a
  resource_group: group
  workspace_name: work
  tenant_id: 0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b
"""
SECRETS = """
variables:
  application_id: 0c0c0c0c-0c0c-0c0c-0c0c-0c0c0c0c0c0c
  application_key: k3y-of-the-application
"""
FOR_ALL = {"claims": 0o1777}
"""Folders that all users share, with their modes. Their files can be read by all."""


OTHER_MASK = pytest.mark.large("makes the same files with another mask")


@pytest.fixture(params=[0o000, *(pytest.param(mask, marks=OTHER_MASK) for mask in (0o022, 0o077))], ids="{:03o}".format)
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes_below(folder: Path) -> dict[str, int]:
    """The modes of files and folders by name, without links."""
    found = [Path(above, name) for above, folders, files in os.walk(folder) for name in (*folders, *files)]
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.lstat().st_mode)
        for path in found
        if not path.is_symlink()
    }


def test_files_have_modes_of_the_umask_and_secrets_are_private(
    himl: Himl,
    project: Path,
    azure_environment: StagedWorkspace,
    box: SshServer,
    mask: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, tmp = tmp_path / "home", tmp_path / "tmp"
    for folder in (home, tmp):
        folder.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp))
    monkeypatch.setenv("HIML_CLAIMS", str(tmp / "claims"))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    sockets = Path(os.environ["XDG_RUNTIME_DIR"])
    write_files(
        project,
        {"train.py": TRAIN, "up/x.txt": "x", "old/settings.yml": SETTINGS, "old/InnerEyePrivateSettings.yml": SECRETS},
    )
    for name in (own := modes_below(project)):
        (project / name).chmod((0o777 if (project / name).is_dir() else 0o666) & ~mask & ~0o002)
    himl.ok("submit", "train.py", "--queue", "--env_var", "WANDB_API_KEY=s3cret-of-the-job")
    himl.ok("submit", "train.py", "--sweep", "lr=1,2", "--no_wait")
    himl.ok("submit", "--from", "latest", "--wait", "-q")
    himl.ok("runs", "export", "latest", "--to", "run.zip")
    himl.ok("download", "latest", "-o", "here", "-w", "local")
    himl.ok("gc", "--yes")
    himl.ok("submit", "train.py", "--cluster", "ssh:box", "--wait", "-q")
    run = azure_environment.add_run("train_1_aa", "train")
    azure_environment.put_artifacts(run, {"outputs/m.bin": b"m" * 10})
    (project / "azure").mkdir()
    state = azure_environment.state
    place = ("--subscription_id", state.subscription, "--resource_group", state.group, "--workspace_name", state.name)
    himl.ok("init", *place, cwd=project / "azure")
    himl.ok("download", "train_1_aa", "-o", "there", cwd=project / "azure")
    himl.ok("datastore", "upload", "../up", "new", "--datastore", DEFAULT, cwd=project / "azure")
    (project / "taken").mkdir()
    himl.ok("init", "--from", "../old/settings.yml", cwd=project / "taken")
    found = {name: mode for name, mode in modes_below(project).items() if name not in own}
    assert found["taken/himl.private.toml"] == 0o600
    of_home, of_tmp = modes_below(home), modes_below(tmp)
    assert len(found) > 50
    private = {name: mode for name, mode in of_home.items() if "/azure/" in name}
    assert len(private) > 2
    assert {name: oct(mode) for name, mode in (private | modes_below(sockets)).items() if mode & 0o077} == {}
    shared = {name: of_tmp[name] for name in FOR_ALL}
    assert shared == FOR_ALL
    assert {
        name: oct(mode) for name, mode in of_tmp.items() if name.startswith("claims/") and mode & 0o777 != 0o644
    } == {}
    others = {
        **found,
        **of_home,
        **{name: mode for name, mode in of_tmp.items() if name.partition("/")[0] not in FOR_ALL},
    }
    assert {name: oct(mode) for name, mode in others.items() if mode & mask} == {}
    used = (".himl", "azure/config.json", "taken/config.json", "taken/himl.toml")
    assert {name: oct(found[name]) for name in used if name in found and found[name] & 0o002} == {}, (
        "himl would not use them"
    )

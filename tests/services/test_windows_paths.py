"""Paths as Windows writes them stand in values that have colons and backslashes of their own meaning."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

import pytest

from himl_cli import DatasetConfig, get_workspace
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.services.checkpoints.sources import kind_of
from himl_cli.services.data_specs import parse_inputs, parse_outputs
from himl_cli.services.studio_url import is_studio_url
from himl_cli.services.tensorboard.event_files import EventFinder
from himl_cli.workspaces.local.mounts import file_system_of
from himl_cli.workspaces.meant import find_workspaces
from tests.kept_checkpoints import RUN, add, found
from tests.recorded_runs import RecordedRuns
from tests.running import Himl, write_files

PATHS = ["C:\\data\\scans", "C:/data/scans", "\\\\server\\share\\scans", ".\\scans", "D:", "C:\\größe und mehr"]


@pytest.mark.parametrize("path", PATHS)
def test_folders_of_data_keep_drive_and_backslashes(path: str) -> None:
    (read,) = parse_inputs([f"images=scans:3,local={path},target={path}"])
    assert (read.key, read.name, read.version, read.local, read.target) == ("images", "scans", "3", path, path)
    (bare,) = parse_inputs([f",local={path}"])
    assert (bare.key, bare.name, bare.version, bare.local) == ("INPUT_0", "", None, path)
    (written,) = parse_outputs([f"masks,local={path}"])
    assert (written.key, written.name, written.local) == ("OUTPUT_0", "masks", path)


@pytest.mark.parametrize("target", [".\\", ".", "./", ".\\\\"])
def test_the_scripts_own_folder_is_no_target(target: str) -> None:
    with pytest.raises(BadUsage, match=r"target=\. is refused"):
        parse_inputs([f"scans,target={target}"])


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_no_address_of_a_run(path: str) -> None:
    assert not is_studio_url(path)


@pytest.mark.parametrize("text", ["C:\\lab\\last.ckpt", "c:/lab/last.ckpt", "\\\\server\\share\\last.ckpt", ".\\last.ckpt", "..\\lab\\last.ckpt"])
def test_a_checkpoint_at_a_path_is_no_run(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotFound, match=f"There is no file '{re.escape(text)}'"):
        kind_of(text, tmp_path)


@pytest.mark.parametrize("path", ["outputs\\checkpoints\\best.ckpt", ".\\best.ckpt", "outputs\\checkpoints\\"])
def test_a_checkpoint_of_a_run_may_be_named_with_backslashes(project: Path, path: str) -> None:
    runs = RecordedRuns(project)
    add(runs, "best.ckpt")
    assert found(runs, source=f"{RUN}:{path}").names == ["outputs/checkpoints/best.ckpt"]


@pytest.mark.parametrize("log_dir", ["logs\\train", ".\\logs\\train", "logs/train\\"])
def test_event_files_below_a_folder_with_backslashes(project: Path, log_dir: str) -> None:
    runs = RecordedRuns(project)
    runs.add(RUN, files={"logs/train/events.out.tfevents.1.host": b"", "logs/other/events.out.tfevents.1.host": b""})
    assert [*EventFinder(runs.workspace.run_files(RUN), log_dir).find()] == ["events.out.tfevents.1.host"]


@pytest.mark.parametrize("spec", ["C:\\lab\\config.json", "\\\\server\\lab\\config.json", ".\\config.json"])
def test_a_workspace_at_a_path_is_a_config_file(tmp_path: Path, spec: str) -> None:
    for given in ({"spec": spec, "config_file": None}, {"spec": None, "config_file": spec}):
        with pytest.raises(NotFound, match=re.escape(spec)):
            find_workspaces(**given, start=tmp_path)


def test_folders_in_a_job_and_in_a_store_have_slashes(project: Path) -> None:
    """As pure paths they are those of Windows wherever this runs."""
    dataset = DatasetConfig("scans", target_folder=PureWindowsPath("data\\scans"))
    assert dataset.to_input(0).target == "data/scans"
    write_files(project, {"weights/last.ckpt": "w"})
    RecordedRuns(project)
    store = get_workspace(workspace_config_path=project / ".himl").datastores["local"]
    store.upload(project / "weights", target_path=PureWindowsPath("models\\best"))
    assert (project / ".himl" / "datastores" / "local" / "models" / "best" / "last.ckpt").read_text() == "w"


def test_a_path_with_backslashes_stands_in_single_quotes_in_settings(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "himl.toml": "[submit]\r\ninput = ['scans,local=C:\\data\\scans']\r\n"})
    assert "scans,local=C:\\data\\scans" in himl.ok("submit", "train.py", "--show_settings").stdout
    write_files(project, {"himl.toml": '[submit]\r\ninput = ["scans,local=C:\\data\\scans"]\r\n'})
    outcome = himl("submit", "train.py", "--show_settings")
    assert outcome.code == 2
    assert "line 2 (key 'input')" in outcome.stderr
    assert "single quotes: 'C:\\data'" in outcome.stderr


def test_a_folder_of_a_store_has_no_backslashes(himl: Himl, project: Path) -> None:
    write_files(project, {"weights/last.ckpt": "w"})
    RecordedRuns(project)
    outcome = himl("datastore", "upload", "weights", "models\\best")
    assert (outcome.code, outcome.stderr) == (2, "error: 'models\\best' has backslashes in it.\nhint: Slashes part the folders of a store: models/best\n")


def test_a_mounted_drive_of_windows_is_no_local_disk() -> None:
    """Of the Windows subsystem for Linux; the mount table writes a backslash in octal."""
    table = "/dev/sdc / ext4 rw 0 0\nC:\\134 /mnt/c 9p rw,aname=drvfs;path=C:\\134 0 0\n"
    assert (file_system_of(Path("/mnt/c/lab/.himl"), table), file_system_of(Path("/home/ada/.himl"), table)) == ("9p", "ext4")

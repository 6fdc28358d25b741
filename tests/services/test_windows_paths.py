"""Paths as Windows writes them stand in values that have colons and backslashes of their own meaning."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path, PureWindowsPath

import pytest

from himl_cli import DatasetConfig, get_workspace
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.files import expand_home
from himl_cli.core.text import as_found
from himl_cli.services.checkpoints.source import kind_of
from himl_cli.services.montage.query import Pattern
from himl_cli.services.runs.lookup import is_studio_url
from himl_cli.services.submission.data import parse_data
from himl_cli.services.submission.job_yaml import prepare_document
from himl_cli.services.submission.pipelines import prepare_pipeline
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.services.tensorboard.copies import EventFinder
from himl_cli.workspaces.local.file_blobs import safe_parts
from himl_cli.workspaces.local.run_store import file_system_of
from himl_cli.workspaces.resolve import find_workspaces
from tests.support.running import Himl, write_files
from tests.support.runs import RUN, RecordedRuns, add, found

POSIX_NAMES = pytest.mark.skipif(sys.platform == "win32", reason="no name has a backslash there")
PATHS = ["C:\\data\\scans", "C:/data/scans", "\\\\server\\share\\scans", ".\\scans", "D:", "C:\\größe und mehr"]


@pytest.mark.parametrize("path", PATHS)
def test_folders_of_data_keep_drive_and_backslashes(path: str) -> None:
    (read,) = parse_data("input", [f"images=scans:3,local={path},target={path}"])
    assert (read.key, read.name, read.version, read.local, read.target) == ("images", "scans", "3", path, path)
    (bare,) = parse_data("input", [f",local={path}"])
    assert (bare.key, bare.name, bare.version, bare.local) == ("INPUT_0", "", None, path)
    (written,) = parse_data("output", [f"masks,local={path}"])
    assert (written.key, written.name, written.local) == ("OUTPUT_0", "masks", path)


def test_home_of_nobody_is_refused_with_a_spelling_that_works() -> None:
    for name in ("~nobody-at-all/x", "~a\0b"):
        with pytest.raises(NotFound, match="no such user has a home folder here"):
            expand_home(name)
    assert expand_home("./~nobody-at-all/x") == Path("~nobody-at-all/x")


@pytest.mark.parametrize("name", ["~\ud800", "~a\0b"])
def test_data_named_by_a_home_of_nobody_is_refused(name: str) -> None:
    with pytest.raises(BadUsage, match="is a path, and no dataset's name"):
        parse_data("input", [name])


@pytest.mark.parametrize("target", [".\\", ".", "./", ".\\\\"])
def test_the_scripts_own_folder_is_no_target(target: str) -> None:
    with pytest.raises(BadUsage, match=r"target=\. is refused"):
        parse_data("input", [f"scans,target={target}"])


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


def test_path_with_backslashes_needs_single_quotes_in_toml(himl: Himl, project: Path) -> None:
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


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (".\\src", "./src"),
        ("data\\raw\\", "data/raw/"),
        ("..\\lib", "../lib"),
        ("data/raw", "data/raw"),
        ("~\\src", "~/src"),
        *[(absolute, absolute) for absolute in ("C:\\src", "C:src\\a", "\\\\server\\src", "\\src", "/src/a\\b")],
        ("src\0\\a", "src\0/a"),
    ],
)
@pytest.mark.parametrize("windows", [False, True])
def test_backslashes_of_relative_paths_are_slashes(tmp_path: Path, text: str, meant: str, windows: bool) -> None:
    assert as_found(tmp_path, text, windows=windows) == meant


@POSIX_NAMES
def test_a_name_that_really_has_a_backslash_wins_but_on_windows(tmp_path: Path) -> None:
    write_files(tmp_path, {"a\\b": "", "a/b": ""})
    assert (as_found(tmp_path, "a\\b", windows=False), as_found(tmp_path, "a\\b", windows=True)) == ("a\\b", "a/b")


@pytest.mark.parametrize("folder", ["data\\raw", ".\\data\\raw\\", "data/raw"])
def test_an_ignored_folder_may_have_backslashes(project: Path, folder: str) -> None:
    write_files(project, dict.fromkeys(["data/raw/x", "data/y", "lib/data/raw/z"], ""))
    report = take_snapshot(project, [folder])
    assert (list(report.snapshot.files), report.missed) == (["data/y", "lib/data/raw/z"], [])


@POSIX_NAMES
def test_an_ignored_folder_whose_name_really_has_a_backslash(project: Path) -> None:
    write_files(project, dict.fromkeys(["a\\b/x", "a/b/x", "lib/c\\d/x", "train.py"], ""))
    report = take_snapshot(project, ["a\\b", "c\\d"])
    assert (list(report.snapshot.files), report.missed) == (["a/b/x", "train.py"], [])


def test_ignored_folders_option_and_setting_take_backslashes(himl: Himl, project: Path) -> None:
    listing = "import os; print(sorted(f'{folder}/{name}' for folder, _, names in os.walk('.') for name in names if name == 'x'))"
    write_files(project, {"train.py": listing, "data/raw/x": "", "data/kept/x": ""})
    expected = str(["./data/kept/x"]) if sys.platform != "win32" else str([".\\data\\kept/x"])
    assert expected in himl.ok("submit", "train.py", "--ignored_folders", "data\\raw").stdout
    write_files(project, {"himl.toml": "[submit]\nignored_folders = ['.\\data\\raw']\n"})
    assert expected in himl.ok("submit", "train.py").stdout


STEP = {"type": "PythonScriptStep", "script": "fit\\train.py", "source_directory": ".\\src\\model", "requirements": "envs\\train.txt"}


def test_paths_of_a_pipeline_may_have_backslashes(project: Path) -> None:
    write_files(project, {"src/model/fit/train.py": "", "envs/train.txt": "numpy\n", "pipeline.json": json.dumps({"step1": STEP})})
    (step,) = prepare_pipeline(SubmitRequest(cwd=project, target="pipeline.json", cluster="gpu"), {}).spec.steps
    assert (step.job.entry.target, step.job.snapshot.root) == ("fit/train.py", project / "src" / "model")
    assert step.job.environment is not None
    assert "numpy" in step.job.environment.conda


@POSIX_NAMES
def test_names_in_a_pipeline_that_really_have_backslashes(project: Path) -> None:
    files = {"src\\model/fit\\train.py": "", "src\\model/fit/train.py": "", "src/model/fit/train.py": ""}
    write_files(project, {**files, "pipeline.json": json.dumps({"step1": {**STEP, "source_directory": "src\\model", "requirements": ""}})})
    (step,) = prepare_pipeline(SubmitRequest(cwd=project, target="pipeline.json"), {}).spec.steps
    assert (step.job.entry.target, step.job.snapshot.root) == ("fit\\train.py", project / "src\\model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_directory": ".\\scr"}, "Did you mean 'src'?"),
        ({"script": "fit\\trian.py"}, "Did you mean 'fit/train.py'?"),
        ({"requirements": "envs\\trian.txt"}, "Did you mean 'envs/train.txt'?"),
        ({"script": "..\\other.py"}, "lies outside source_directory"),
    ],
)
def test_a_path_of_a_pipeline_that_is_misspelt_with_backslashes(project: Path, change: dict[str, str], message: str) -> None:
    files = {"src/model/fit/train.py": "", "src/other.py": "", "envs/train.txt": ""}
    write_files(project, {**files, "pipeline.json": json.dumps({"step1": {**STEP, **change}})})
    with pytest.raises(BadUsage) as caught:
        prepare_pipeline(SubmitRequest(cwd=project, target="pipeline.json", cluster="gpu"), {})
    assert message in f"{caught.value} {caught.value.hint}"


def test_code_and_data_of_a_jobs_yaml_may_have_backslashes(project: Path) -> None:
    job = "command: python fit.py ${{inputs.scans}}\ncode: .\\src\\model\ninputs:\n  scans: {type: uri_folder, path: .\\data\\raw}\n"
    write_files(project, {"src/model/fit.py": "", "data/raw/x": "", "job.yml": job})
    found = prepare_document(SubmitRequest(cwd=project, target="job.yml"), {}).job
    assert found is not None
    assert (found.snapshot.root, list(found.snapshot.files)) == (project / "src" / "model", ["fit.py"])
    (scans,) = found.inputs
    assert not isinstance(scans, str)
    assert (scans.name, scans.local) == ("raw", str(project / "data" / "raw"))


def test_patterns_of_slides_on_both_systems() -> None:
    assert Pattern("Scans\\**\\*.TIFF", windows=True).matches("scans/a/b.tiff")
    assert not Pattern("Scans\\*.tiff", windows=False).matches("Scans/b.tiff")
    assert not Pattern("scans/*.TIFF", windows=False).matches("scans/b.tiff")
    with pytest.raises(BadUsage, match="leaves the folder"):
        Pattern("scans\\..\\..\\*.tiff", windows=True)


@pytest.mark.parametrize("name", ["a\\b", "..\\a", "C:/a", "a:b/c", "a/b|c", "what?", "*"])
def test_names_of_stored_files_that_windows_could_not_have(name: str) -> None:
    assert (safe_parts(name, windows=False), safe_parts(name, windows=True)) == (tuple(name.split("/")), None)


def test_names_of_stored_files_on_both_systems() -> None:
    for windows in (False, True):
        assert safe_parts("outputs/größe 1.ckpt", windows=windows) == ("outputs", "größe 1.ckpt")
        assert safe_parts("outputs/../a", windows=windows) is safe_parts("a\0", windows=windows) is None

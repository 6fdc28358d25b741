"""Tests of parsers on broken input from users and programs, including inputs that `stress/fuzz` found, and Windows
paths.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_LZMA, ZipFile

import pytest
from azure.core.exceptions import ClientAuthenticationError

from himl_cli.api import submit_if_needed
from himl_cli.commands.options import ALL_RUNS, parse_count
from himl_cli.core import redaction
from himl_cli.core.documents import to_document
from himl_cli.core.errors import BadUsage, DiskFailed, IntegrityFailed, NotFound, ServiceFailed
from himl_cli.core.events import ignore
from himl_cli.core.files import as_found, expand_home, make_folder, temporary_folder
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot, StoredJob
from himl_cli.core.mounts import mount_of
from himl_cli.core.runs import ATTEMPTS, Run, RunQuery, RunStatus, later_starts
from himl_cli.core.search import BadSearch, parse_filter
from himl_cli.core.settings import section_settings
from himl_cli.core.sweeps import HYPERPARAMETERS, hyperparameters_of
from himl_cli.core.text import parse_duration
from himl_cli.services.checkpoints.names import is_whole, parse_name
from himl_cli.services.checkpoints.source import kind_of
from himl_cli.services.project_setup import read_deepseismic, read_innereye
from himl_cli.services.runs.archive import export_runs, import_runs
from himl_cli.services.runs.lookup import is_run_address
from himl_cli.services.submission.data import parse_data
from himl_cli.services.submission.environment import parse_conda_package, read_conda_file, requirements_as_conda
from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
from himl_cli.services.submission.pipeline_file import read_pipeline, step_files
from himl_cli.services.submission.pipelines import PreparedPipeline, prepare_pipeline
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.services.submission.sweeps import parse_sampling
from himl_cli.services.transfer.state import TransferState
from himl_cli.services.yaml_files import dump_mapping, parse_mapping
from himl_cli.slides.query import Pattern, read_ids, read_table
from himl_cli.workspaces.azure.config import address_from_config, names_workspace
from himl_cli.workspaces.azure.credentials import OnBehalfOf
from himl_cli.workspaces.azure.jobs.sdk import complaint_of
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.storage.datastore_records import DatastoreRecord
from himl_cli.workspaces.local.file_blobs import safe_parts
from himl_cli.workspaces.local.logged_values import read_logged_files, read_texts
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, RunFolder
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.resolve import find_workspaces
from tests.support.folders import state_of
from tests.support.hostile_texts import DAMAGED, framed, naming, stands
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns
from tests.support.web import serving_files

JOB = "type: command\ncommand: python a.py\n"
SWEEP = (
    "type: sweep\ntrial: {command: python a.py}\nobjective: {primary_metric: a, goal: minimize}\n"
    "limits: {max_total_trials: 2}\n"
    "search_space: {a: {type: choice, values: [%s]}}\nsampling_algorithm: {type: random, seed: %s}\n"
)
A_STEP = '{"step1": {"type": "PythonScriptStep", "script": "a.py", "source_directory": ".", '


def prepared(folder: Path) -> None:
    changed_yaml(prepare_document(SubmitRequest(cwd=folder, target="job.yml"), {}))


def read_address(text: str) -> None:
    for parse in (
        redaction.is_address,
        redaction.is_botched_address,
        redaction.parts_of,
        redaction.shown,
        redaction.identity,
        redaction.last_name,
    ):
        parse(text)
    assert 0 < len(redaction.safe_name(text).encode()) <= 4 * redaction.LONGEST_FILE_NAME + 1


Parser = Callable[[Any], object]
TEXTS: dict[str, tuple[Parser, tuple[str, ...]]] = {
    "YAML": (
        lambda text: dump_mapping(parse_mapping(text, Path("a.yml"))),
        ("a: !!int @", "@: !!binary @", "a: &b @\nc: *b", "<<: @"),
    ),
    "samplings": (parse_sampling, ("random(seed=@)",)),
    "hyperparameters": (lambda text: hyperparameters_of({HYPERPARAMETERS: text}), ("@", '{"a": @}')),
    "attempts": (lambda text: later_starts({ATTEMPTS: text}), ("@", '[[1, 2, ""], [@, 2, ""]]')),
    "addresses": (read_address, ("@", "https://@", "https://a/?@=@", "https://a:@/b")),
    "durations": (parse_duration, ("@s", "1.@h")),
    "packages of conda": (lambda text: parse_conda_package(text, Path("a.yml")), ("@", "a=@", "a::@")),
    "tables": (
        lambda text: read_table(text, "a.csv"),
        ("@", "image,slide_id\n@", "image;slide_id\n@;a", "image,@", "sep=@\nimage,slide_id\na,b"),
    ),
    "patterns": (
        lambda text: Pattern(text[:1000]).matches("a" * 60),
        ("@", "*a" * 25 + "@", "**/" * 20 + "@", "[@]", "[!@"),
    ),
    "names of checkpoints": (parse_name, ("epoch=@", "epoch=1-loss=@-v1.ckpt", "a-v@.ckpt", "best_@", "step @")),
}
"""By kind of text: a parser, and frames with `@` at the position of the hostile text."""

FILES: dict[str, tuple[Parser, str, tuple[str, ...]]] = {
    "InnerEye": (lambda folder: read_innereye(folder / "settings.yml", folder), "settings.yml",
        ("@", "variables:\n  cluster: @")),
    "prepared jobs": (prepared, "job.yml", (
        *(JOB + text for text in ("outputs: {a: {path: '@'}}", "environment_variables: {a: @}", "tags: {a: @}")),
        *(SWEEP % values for values in (("@", "7"), ("1", "@"))), "@", "type: @", "$schema: @",
            "jobs: {a: {compute: @}}",
    )),
    "environments": (lambda folder: read_conda_file(folder / "a.yml"), "a.yml",
        ("@", "dependencies: [@]", "dependencies: [pip: ['@']]")),
    "settings": (lambda folder: section_settings(folder, "submit"), "himl.toml",
        ("@", "[submit]\n@ = 1", "[[submit]]\na = '''@", 'a = {b = "@"}')),
    "pyproject": (lambda folder: section_settings(folder, "submit"), "pyproject.toml",
        ("[tool.himl.submit]\ncluster = @",)),
    "config.json": (lambda folder: (names_workspace(folder / "config.json"),
        address_from_config(folder / "config.json")), "config.json", (
        "@", '{"subscription_id": @, "resource_group": "a", "workspace_name": "b"}', '{"Scope": "@"}',
    )),
    ".env": (lambda folder: read_deepseismic(folder / ".env"), ".env", ("@", "A=@", "A='@", "export @", "A=' @ ' #")),
    "pipelines": (lambda folder: read_pipeline(folder / "a.json", "a.json"), "a.json",
        ("@", A_STEP + '"arguments": "@"}}', A_STEP + '"node_count": @}}')),
    "lists of ids": (lambda folder: read_ids(folder / "ids.csv", "--include_by_slide_id"), "ids.csv",
        ("slide_id\n@", "slide_id,a\n@")),
    "records of runs": (lambda folder: (RunFolder(folder).read(PLAN), RunFolder(folder).read(RECORD)), "plan.json",
        ("@", '{"many": @}')),
    "logged tables": (lambda folder: (read_logged_files(folder, lambda name: True), list(read_texts(folder, "run"))),
        "logged/a.jsonl", (
        "@", '{"kind": "table", "values": {"a": @}, "step": 1, "time": "2026-01-01"}',
        '{"kind": "scalar", "values": {"a": "x"}, "step": @, "time": "2026-01-01"}',
    )),
    "checkpoints": (lambda folder: is_whole(folder / "a.safetensors"), "a.safetensors", ("@",)),
}  # fmt: skip
"""By kind of file: a parser that gets the folder, the name of the file, and frames."""
# These get no long texts, which other parsers cover.
SLOW = ("YAML", "prepared jobs", "environments", "InnerEye")


LONG = pytest.mark.large("reads long texts for seconds")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[LONG] * (name in ("samplings", ".env"))) for name in (*TEXTS, *FILES)]
)
def test_hostile_input_is_read_or_refused(tmp_path: Path, name: str) -> None:
    parse, file, frames = FILES[name] if name in FILES else (TEXTS[name][0], "", TEXTS[name][1])
    texts = framed(*frames, takes_long=name not in SLOW)
    if not file:
        for where, text in texts.items():
            with naming(where):
                stands(parse, text)
        return
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for where, content in {
        **{where: text.encode("utf-8", "surrogatepass") for where, text in texts.items()},
        **DAMAGED,
    }.items():
        (tmp_path / file).write_bytes(content)
        with naming(where):
            stands(parse, tmp_path)


KEPT = "train_1700000000_0badcafe"
DEEP = "[" * 50_000
DAMAGED_RECORD = r"workspace\.db' is damaged: it has invalid values\.$"


@pytest.fixture
def workspace(tmp_path: Path) -> LocalWorkspace:
    """A workspace that has a run with a metric."""
    with closing(Database(tmp_path / "workspace.db", create=True)) as database:
        store = RunStore(database)
        store.add(
            Run(KEPT, "exp", RunStatus.running, display_name="n", tags={"a": "b"}, started=as_time(1700000000000))
        )
        MetricStore(database).log(KEPT, [("loss", 0.5, 1, 1700000000000), ("loss", 0.4, 2, 1700000001000)])
        store.end(KEPT, RunStatus.completed, exit_code=0)
    return LocalWorkspace(tmp_path)


def overwrite(workspace: LocalWorkspace, table: str, column: str, value: Any) -> None:
    with closing(sqlite3.connect(workspace.folder / "workspace.db")) as connection, connection:
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))


@pytest.mark.parametrize(("table", "column", "value"), [
    *(("runs", "id", value) for value in (None, "../..")),
    ("runs", "created", float("inf")),
    ("runs", "ended", b"MM"),
    ("runs", "status", "Odd"),
    *(("points", column, value) for column,
        value in (("time", "x"), ("time", float("-inf")), ("value", "x"), ("step", "x"))),
])  # fmt: skip
def test_row_that_himl_does_not_write_is_damage(workspace: LocalWorkspace, table: str, column: str, value: Any) -> None:
    overwrite(workspace, "runs", "job", b"\x04")
    assert ([run.id for run in workspace.runs(RunQuery())], workspace.run(KEPT).exit_code) == ([KEPT], 0), (
        "an odd column of no use loses no run"
    )
    overwrite(workspace, table, column, value)
    with pytest.raises(DiskFailed, match=DAMAGED_RECORD):
        repr((list(workspace.runs(RunQuery())), workspace.metrics(KEPT)))
    if table == "points" and value == "x":
        with pytest.raises(DiskFailed, match=DAMAGED_RECORD):
            workspace.results([*workspace.runs(RunQuery())], wanted=lambda name: True, whole=True)


def test_nonsense_in_files_variables_and_answers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TransferState(tmp_path, print) as state:
        state.begin_part("c", "r/c e 100")
    path = state_of(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE files", b"CREATE TABLE \x8ailes"))
    with TransferState(tmp_path, print) as state:
        assert state.ranges("c", "r/c e 100") == []
    path = tmp_path / "requirements.txt"
    path.write_bytes(b"numpy\n-r \0other.txt\n")
    with pytest.raises(BadUsage, match=r"(?s)line 2: '.*' is not a valid file name"):
        requirements_as_conda(path, tmp_path, tmp_path, {})
    assert DatastoreRecord.from_json(RECORD_OF_STORE) is not None
    odd: dict[str, Any]
    for odd in (
        {"type": []},
        {"name": 3},
        {"is_default": "yes"},
        {"account": ""},
        {"container": ""},
        {"account": "a/b"},
        {"endpoint": "\ud800"},
    ):
        assert DatastoreRecord.from_json(RECORD_OF_STORE | odd) is None
    assert DatastoreRecord.from_arm({"name": "d", "properties": OF_ARM}).account == "a"
    for odd in ({"containerName": ""}, {"accountName": "a/b"}, {"accountName": "\ud800"}, {"endpoint": "x y"}):
        with (
            pytest.raises(ServiceFailed, match="himl cannot read the datastore"),
            understood("https://management.azure.com", "the datastore"),
        ):
            DatastoreRecord.from_arm({"name": "d", "properties": OF_ARM | odd})
    for text in (DEEP, '{"x": ["/a"]}', '{"x": 1}', "[]", "9" * 5000):
        monkeypatch.setenv(submit_if_needed.DOWNLOADED_VARIABLE, text)
        assert submit_if_needed.downloaded() == {}
    assert parse_count("--num_runs", "9" * 5000) == ALL_RUNS
    assert parse_count("--num_runs", " 0007 ") == 7
    for text in ("0", "000", "-1", "²", ""):
        with pytest.raises(BadUsage, match="must be a positive integer"):
            parse_count("--num_runs", text)
    assert complaint_of('{"errors": ' + DEEP).startswith("{")
    assert complaint_of('{"errors": ' + "[" * 500 + "]" * 500 + "}")
    for key in ("\x1b[31m", "a\nb"):
        with pytest.raises(BadSearch) as caught:
            parse_filter(f"`{key}` = 'x'")
        assert str(caught.value).isprintable()


RECORD_OF_STORE = {
    "name": "d",
    "type": "AzureBlob",
    "account": "a",
    "container": "c",
    "endpoint": "",
    "protocol": "https",
    "credentials": "None",
}
OF_ARM = {
    "datastoreType": "AzureBlob",
    "accountName": "a",
    "containerName": "c",
    "endpoint": "core.windows.net",
    "protocol": "https",
}


@pytest.mark.parametrize("place", ["x" * 3000, "~no-such-user/a"], ids=["long", "nobody"])
def test_impossible_place_in_job_or_step_is_refused(tmp_path: Path, place: str) -> None:
    for frame in ("command: python a.py\ncode: {}\n", "type: pipeline\njobs: {{one: {{component: {}}}}}\n"):
        (tmp_path / "job.yml").write_text(frame.format(place))
        with pytest.raises(BadUsage, match=r"' is not a (folder|file)\.$"):
            prepare_document(SubmitRequest(cwd=tmp_path, target="job.yml"), {})
    (tmp_path / "a.py").write_text("")
    for key in ("source_directory", "script", "requirements"):
        step = {"type": "PythonScriptStep", "script": "a.py", "source_directory": ".", key: f"{place}.py"}
        (tmp_path / "p.json").write_text(json.dumps({"step1": step}))
        file = read_pipeline(tmp_path / "p.json", "p.json")
        with pytest.raises(BadUsage, match=f"step1: '{key}' '{place[:3]}"):
            step_files(file, file.steps[0], tmp_path)


def test_server_of_nonsense_is_no_tensorboard_and_gives_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        DEEP.encode(),
        b'{"data_location": ' + b"9" * 5000 + b"}",
        b"\xff",
        b"[]",
        b"3",
        b'{"token": 3, "expires_on": 1}',
    ]
    answers += [b'{"token": "t", "expires_on": %s}' % odd for odd in (b"[]", b"1e999")]
    path = "/data/environment"
    with serving_files(None) as server:
        port = int(server.address.rpartition(":")[2])
        monkeypatch.setenv("OBO_ENDPOINT", f"http://127.0.0.1:{port}{path}")
        for body in (*answers, b'{"token": "a\\nb", "expires_on": 1}'):
            server.put(path, body)
            with pytest.raises(ClientAuthenticationError, match="returned no token"):
                OnBehalfOf().get_token("https://storage.azure.com/.default")


POSIX_NAMES = pytest.mark.skipif(sys.platform == "win32", reason="no name has a backslash there")


@pytest.mark.parametrize("path", ["C:/data/scans", "\\\\server\\share\\scans", "D:", "C:\\größe und mehr"])
def test_data_folders_keep_drive_and_backslashes(path: str) -> None:
    (item,) = parse_data("input", [f"images=scans:3,local={path},target={path}"])
    assert (item.key, item.name, item.version, item.local, item.target) == ("images", "scans", "3", path, path)
    (bare,) = parse_data("input", [f",local={path}"])
    assert (bare.key, bare.name, bare.version, bare.local) == ("INPUT_0", "", None, path)
    (written,) = parse_data("output", [f"masks,local={path}"])
    assert (written.key, written.name, written.local) == ("OUTPUT_0", "masks", path)
    assert not is_run_address(path)


def test_home_of_nobody_and_paths_to_no_file_are_refused(tmp_path: Path) -> None:
    for name in ("~nobody-at-all/x", "~a\0b"):
        with pytest.raises(NotFound, match="this user has no home folder on this machine"):
            expand_home(name)
    assert expand_home("./~nobody-at-all/x") == Path("~nobody-at-all/x")
    for text, message in (
        ("~\ud800", "is a path, not the name of a dataset"),
        ("~a\0b", "is a path, not the name of a dataset"),
    ):
        with pytest.raises(BadUsage, match=message):
            parse_data("input", [text])
    for target in (".\\", ".", "./", ".\\\\"):
        with pytest.raises(BadUsage, match=r"target=\. would hide the script's own folder"):
            parse_data("input", [f"scans,target={target}"])
    for text in ("C:\\lab\\file", "c:/lab/file", "\\\\server\\share\\file", ".\\file", "..\\lab\\file"):
        with pytest.raises(NotFound, match=f"There is no file '{re.escape(text)}'"):
            kind_of(text, tmp_path)
    for spec in ("C:\\lab\\config.json", "\\\\server\\lab\\config.json", ".\\config.json"):
        for given in ({"spec": spec, "config_file": None}, {"spec": None, "config_file": spec}):
            with pytest.raises(NotFound, match=re.escape(spec)):
                find_workspaces(**given, start=tmp_path)


def test_backslashes_in_settings_and_datastore_folders(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "himl.toml": "[submit]\r\ninput = ['scans,local=C:\\data\\scans']\r\n"})
    assert "scans,local=C:\\data\\scans" in himl.ok("submit", "train.py", "--show_settings").stdout
    write_files(project, {"himl.toml": '[submit]\r\ninput = ["scans,local=C:\\data\\scans"]\r\n'})
    outcome = himl("submit", "train.py", "--show_settings")
    assert outcome.code == 2
    assert "line 2 (key 'input')" in outcome.stderr
    assert "single quotes: 'C:\\data'" in outcome.stderr
    write_files(project, {"weights/last.ckpt": "w"})
    RecordedRuns(project)
    outcome = himl("datastore", "upload", "weights", "models\\best")
    assert (outcome.code, outcome.stderr) == (
        2,
        "error: 'models\\best' contains backslashes.\nhint: Use slashes between folders: models/best\n",
    )


def test_backslashes_of_relative_paths_are_slashes(tmp_path: Path) -> None:
    meant = {
        ".\\src": "./src",
        "data\\raw\\": "data/raw/",
        "..\\lib": "../lib",
        "data/raw": "data/raw",
        "~\\src": "~/src",
        "src\0\\a": "src\0/a",
    }
    meant |= {absolute: absolute for absolute in ("C:\\src", "C:src\\a", "\\\\server\\src", "\\src", "/src/a\\b")}
    for windows in (False, True):
        assert {text: as_found(tmp_path, text, windows=windows) for text in meant} == meant


@POSIX_NAMES
def test_names_with_real_backslashes_win_but_on_windows(project: Path) -> None:
    write_files(project, dict.fromkeys(["a\\b/x", "a/b/x", "lib/c\\d/x", "train.py"], ""))
    assert (as_found(project, "a\\b", windows=False), as_found(project, "a\\b", windows=True)) == ("a\\b", "a/b")
    report = take_snapshot(project, ["a\\b", "c\\d"])
    assert (list(report.snapshot.files), report.missed) == (["a/b/x", "train.py"], [])
    report = take_snapshot(project, [".\\lib\\", "a\\b"])
    assert (list(report.snapshot.files), report.missed) == (["a/b/x", "train.py"], [])


STEP = {
    "type": "PythonScriptStep",
    "script": "fit\\train.py",
    "source_directory": ".\\src\\model",
    "requirements": "envs\\train.txt",
}


def pipeline(project: Path, files: dict[str, str], **changes: str) -> PreparedPipeline:
    write_files(project, {**files, "pipeline.json": json.dumps({"step1": {**STEP, **changes}})})
    return prepare_pipeline(SubmitRequest(cwd=project, target="pipeline.json", cluster="gpu"), {})


def test_paths_of_pipeline_may_have_backslashes(project: Path) -> None:
    files = {"src/model/fit/train.py": "", "src/other.py": "", "envs/train.txt": "numpy\n"}
    (step,) = pipeline(project, files).spec.steps
    assert (step.job.entry.target, step.job.snapshot.root) == ("fit/train.py", project / "src" / "model")
    assert step.job.environment is not None
    assert "numpy" in step.job.environment.conda
    for key, path, message in (
        ("source_directory", ".\\scr", "Did you mean 'src'?"),
        ("script", "fit\\trian.py", "Did you mean 'fit/train.py'?"),
        ("requirements", "envs\\trian.txt", "Did you mean 'envs/train.txt'?"),
        ("script", "..\\other.py", "is outside source_directory"),
    ):
        with pytest.raises(BadUsage) as caught:
            pipeline(project, files, **{key: path})
        assert message in f"{caught.value} {caught.value.hint}"


def test_patterns_and_names_of_stored_files_on_both_systems() -> None:
    assert Pattern("Scans\\**\\*.TIFF", windows=True).matches("scans/a/b.tiff")
    assert not Pattern("Scans\\*.tiff", windows=False).matches("Scans/b.tiff")
    assert not Pattern("scans/*.TIFF", windows=False).matches("scans/b.tiff")
    with pytest.raises(BadUsage, match="leaves the folder"):
        Pattern("scans\\..\\..\\*.tiff", windows=True)
    for name in ("a\\b", "..\\a", "C:/a", "a:b/c", "a/b|c", "what?", "*"):
        assert (safe_parts(name, windows=False), safe_parts(name, windows=True)) == (tuple(name.split("/")), None)
    for windows in (False, True):
        assert safe_parts("outputs/größe 1.ckpt", windows=windows) == ("outputs", "größe 1.ckpt")
        assert safe_parts("outputs/../a", windows=windows) is safe_parts("a\0", windows=windows) is None
    table = "/dev/sdc / ext4 rw 0 0\nC:\\134 /mnt/c 9p rw,aname=drvfs;path=C:\\134 0 0\n"
    assert (mount_of(Path("/mnt/c/lab/.himl"), table)[0], mount_of(Path("/home/ada/.himl"), table)[0]) == ("9p", "ext4")


@pytest.mark.large("makes and deletes thousands of folders")
@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS paths of four thousand bytes")
def test_archive_has_files_in_a_thousand_folders(tmp_path: Path) -> None:
    name = f"outputs/{'d/' * 1100}f"
    with temporary_folder() as place:  # which pytest could not delete
        near, far = RecordedRuns(place / "near"), RecordedRuns(place / "far").workspace
        near.add("train_1_aa", files={"outputs/a.txt": "good"})
        path = near.workspace.folder / "runs" / "train_1_aa" / "code" / name
        make_folder(path.parent)
        path.write_text("deep")
        export_runs(near.workspace, [near.workspace.run("train_1_aa")], tmp_path / "runs.zip", ignore)
        import_runs(far, tmp_path / "runs.zip", ignore)
        assert b"".join(far.run_files("train_1_aa").read(name)) == b"deep"


def test_damaged_archive_is_said_to_be_damaged(tmp_path: Path) -> None:
    """Wherever it was cut, or a byte of its text changed, and however it is compressed."""
    near, far = RecordedRuns(tmp_path / "near"), RecordedRuns(tmp_path / "far").workspace
    near.add("train_1_aa", files={"outputs/a.txt": "good " * 1000})
    export_runs(near.workspace, [near.workspace.run("train_1_aa")], tmp_path / "runs.zip", ignore)
    whole, chance = (tmp_path / "runs.zip").read_bytes(), random.Random(1)
    with ZipFile(tmp_path / "runs.zip") as archive:
        info = archive.getinfo("himl-runs.json")
    begin = info.header_offset + 30 + len(info.filename)
    for number in range(40):
        place = chance.randrange(begin, begin + info.compress_size)
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        (tmp_path / "bad.zip").write_bytes(changed if number % 2 else whole[:place])
        with pytest.raises(IntegrityFailed, match="is damaged") as caught:
            import_runs(far, tmp_path / "bad.zip", ignore)
        assert caught.value.hint == "Copy the archive again."
    assert [*far.runs(RunQuery())] == []


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS names with control characters")
def test_file_that_an_archive_cannot_have_is_an_error(tmp_path: Path) -> None:
    recorded = RecordedRuns(tmp_path)
    recorded.add("train_1_aa", files={"outputs/a\tb": "text"})
    with pytest.raises(IntegrityFailed, match="control characters"):
        export_runs(recorded.workspace, [recorded.workspace.run("train_1_aa")], tmp_path / "runs.zip", ignore)


def test_archive_of_runs_writes_nothing_outside_and_no_damaged_run(tmp_path: Path) -> None:
    """Names that lead out, in every form, links, changed and missing files, and texts that are no archive."""
    near, good = RecordedRuns(tmp_path / "near"), tmp_path / "good"
    near.add("train_1_aa", files={"outputs/a.txt": "good"})
    export_runs(near.workspace, [near.workspace.run("train_1_aa")], good, lambda _: None)
    for name in ("runs.tar.gz", "runs.TGZ", "runs.7z"):
        with pytest.raises(BadUsage, match="himl writes a "):
            export_runs(near.workspace, [near.workspace.run("train_1_aa")], tmp_path / name, lambda _: None)
    manifest = json.loads((good / "himl-runs.json").read_text())
    file = "train_1_aa/files/outputs/a.txt"
    facts, (record,) = manifest["files"][file], manifest["runs"]
    bad: dict[str, Any] = {
        name: {"files": {name: facts}}
        for name in ("../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil", "C:/evil", "a//b", "", "a/./b", "a\0b")
    }
    bad |= {
        f"id {name}": {"runs": [{**record, "run": {**record["run"], "id": name}}]}
        for name in ("../evil", "..", "a/b", "", "x" * 300, "a\nb", "a\x1b[31m", "a\u202eb")
    }
    bad |= {
        "format": {"format": 9},
        "files": {"files": [1]},
        "runs": {"runs": 1},
        "record": {"runs": [{}]},
        "open": {"runs": [{**record, "run": {**record["run"], "status": "Running"}}]},
    }
    run, row = record["run"], {"values": {"a": 1.0}, "step": 0, "time": "2026-01-01 00:00:00+00:00", "id": "b"}
    rows: list[dict[str, Any]] = [
        {"time": None}, {"step": 10**30}, {"step": "1"}, {"values": None}, {"values": {"a": {}}}, {"id": 1},
    ]  # fmt: skip
    of_other_types: list[dict[str, Any]] = [
        *({"run": {**run, field: value}} for field, value in {
            "id": None, "experiment": {}, "status": None, "created": None, "tags": {"a": 1}, "exit_code": 2**63,
            "parent": 1, "command": "\ud800", "is_archived": "no",
        }.items()),
        {"parameters": {"a": None}}, {"environment": 1}, {"job": {"a": 1}},
        *({"logged": [{"name": "a", "kind": "scalar", "rows": [{**row, **change}]}]} for change in rows),
        {"logged": [{"name": None, "kind": "scalar", "rows": []}]}, {"logged": [None]}, {"logged": None},
    ]  # fmt: skip
    bad |= {f"type {change}": {"runs": [{**record, **change}]} for change in of_other_types}
    bad |= {
        "long": {"files": {"x" * 300: facts}},
        "size": {"files": {file: {**facts, "size": 10**15}}},
        "hash": {"files": {file: {**facts, "sha256": "0" * 64}}},
        "missing": {"files": {"b": facts}},
    }
    for number, (name, changes) in enumerate(bad.items()):
        archive = tmp_path / f"{number}.zip"
        with ZipFile(archive, "w") as made:
            made.writestr("himl-runs.json", json.dumps({**manifest, **changes}))
            listed = changes.get("files", {}) if name != "missing" else {}
            for each in {file, *(listed if isinstance(listed, dict) else ())}:
                made.writestr(each or "empty", "good")
        far = RecordedRuns(tmp_path / f"far{number}").workspace
        with pytest.raises((BadUsage, IntegrityFailed)):
            import_runs(far, archive, ignore)
        assert [*far.runs(RunQuery())] == [], name
    # Both records are sound, but of one id
    with ZipFile(tmp_path / "second.zip", "w") as made:
        made.writestr("himl-runs.json", json.dumps({**manifest, "runs": [record, record]}))
        made.writestr(file, "good")
    far = RecordedRuns(tmp_path / "second").workspace
    with pytest.raises(BadUsage, match="train_1_aa"):
        import_runs(far, tmp_path / "second.zip", ignore)
    assert [*far.runs(RunQuery())] == [], "no run of an archive that cannot be imported as a whole"
    for archive in (tmp_path / "second.zip", tmp_path / "0.zip"):  # before and after the first run
        with closing(LocalWorkspace(tmp_path / "new" / ".himl")) as new, pytest.raises(BadUsage):
            import_runs(new, archive, ignore)
        assert not (tmp_path / "new" / ".himl").exists(), "no new workspace"
    assert [run.id for run in import_runs(far, good, ignore)] == ["train_1_aa"]
    (good / file).unlink()
    (good / file).symlink_to(tmp_path / "near" / ".himl" / "runs" / "train_1_aa" / "code" / "outputs" / "a.txt")
    (tmp_path / "text.zip").write_text("text")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "second.zip").read_bytes()[1:])
    for name, compression in {"lzma.zip": ZIP_LZMA, "bzip2.zip": ZIP_BZIP2}.items():
        with ZipFile(tmp_path / name, "w", compression) as made:
            made.writestr("himl-runs.json", json.dumps(manifest))
        content = bytearray((tmp_path / name).read_bytes())
        content[60:70] = b"\0\xff" * 5
        (tmp_path / name).write_bytes(content)
    for archive in (good, *(tmp_path / name for name in ("text.zip", "cut.zip", "lzma.zip", "bzip2.zip", "nothing"))):
        with pytest.raises((BadUsage, IntegrityFailed, NotFound)):
            import_runs(far, archive, ignore)
    assert not [*tmp_path.rglob("*evil*")]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")
def test_archive_holds_the_names_of_linux_and_only_its_own_code(tmp_path: Path) -> None:
    """A run whose parent is a folder outside of the archive gets no code from there."""
    near, made = RecordedRuns(tmp_path / "near"), tmp_path / "made" / "archive"
    near.add("train_1_aa", files={"outputs/12:00\\a.txt": "good"})
    export_runs(near.workspace, [near.workspace.run("train_1_aa")], made, ignore)
    manifest = json.loads((made / "himl-runs.json").read_text())
    manifest["runs"][0]["run"]["parent"] = "../other"
    job = JobSpec(experiment="train", entry=Entry(EntryKind.script, "a.py"), snapshot=Snapshot(tmp_path, [], 0))
    manifest["runs"][0]["job"] = json.loads(json.dumps(to_document(StoredJob(job)), default=str))
    (made / "himl-runs.json").write_text(json.dumps(manifest))
    write_files(tmp_path / "made" / "other" / "code", {"a.py": "private"})
    far = RecordedRuns(tmp_path / "far")
    (run,) = import_runs(far.workspace, made, ignore)
    assert [blob.name for page in far.workspace.run_files(run.id).list() for blob in page] == ["outputs/12:00\\a.txt"]
    assert not [path for path in (tmp_path / "far").rglob("a.py") if path.read_text() == "private"]

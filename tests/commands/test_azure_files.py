"""`himl download` and `himl datastore` on an Azure ML workspace, through the installed program."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.azureml.faults import Drip
from tests.servers.azureml.seeding import DEFAULT, StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.folders import contents, files_below, transfers
from tests.support.running import Himl, until, write_files

HEAVY = ["azure.ai", "azureml", "mlflow"]
LOADED = """
import sys
from himl_cli.app import main
try:
    main()
finally:
    print("LOADED", [name for name in {names!r} if name in sys.modules], file=sys.stderr)
"""
RUN_FILES = {"outputs/model.bin": b"m" * 100_000, "outputs/empty": b"", "logs/a b#%?.txt": b"log", "user_logs/std_log.txt": "größe\n".encode()}


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train")
    azure.put_artifacts(run, RUN_FILES)
    azure.add_output(run, "predictions", {"part/0.csv": b"0,1\n", "part/1.csv": b"2,3\n"})
    azure.put_blobs(DEFAULT, {"data/a.txt": b"a", "data/sub/b.txt": b"bb", "data/größe.txt": b"ccc", "other.txt": b"dddd"})
    return azure


def tree(folder: Path) -> dict[str, bytes]:
    """Names and contents of what was written, himl's own small state file aside."""
    files = contents(folder)
    return {name: content for name, content in files.items() if not name.split("/")[-1].startswith(".himl")}


@pytest.mark.usefixtures("seeded")
def test_download_brings_all_artifacts_and_a_second_call_none(himl: Himl, project: Path) -> None:
    first = himl.ok("download", "train_1_aa")
    assert tree(project / "outputs" / "train_1_aa") == RUN_FILES
    assert first.stdout.startswith(f"Downloaded 4 files (100.0 KB) to '{Path('outputs') / 'train_1_aa'}'")
    assert "0 files" in himl.ok("download", "train_1_aa").stdout


@pytest.mark.usefixtures("seeded")
def test_download_takes_prefix_and_filters_and_lists(himl: Himl, project: Path) -> None:
    himl.ok("download", "train_1_aa", "--prefix", "outputs", "--strip_prefix", "--flat", "--output_dir", "here")
    assert sorted(tree(project / "here")) == ["empty", "model.bin"]
    assert himl.ok("download", "train_1_aa", "--list", "--include", "*.txt", "-q").stdout.splitlines() == ["logs/a b#%?.txt", "user_logs/std_log.txt"]


def test_download_does_not_report_service_logs_as_unverifiable(himl: Himl, seeded: StagedWorkspace) -> None:
    """Logs that the service writes never have an MD5; other files without one are still counted."""
    run = seeded.add_run("logged_2_bb", "train")
    for name in ("user_logs/std_log.txt", "logs/azureml/executionlogs.txt", "azureml-logs/hyperdrive.txt", "system_logs/lifecycler/lifecycler.log"):
        seeded.append_log(run, "line\n", name=name)
    for command in (("download",), ("download", "--overwrite")):
        assert "not verifiable" not in himl.ok(*command, "logged_2_bb").stdout
    seeded.append_log(run, "1,2\n", name="logs/mine.csv")
    assert "; 1 not verifiable" in himl.ok("download", "logged_2_bb").stdout


@pytest.mark.usefixtures("seeded")
def test_download_takes_a_named_output_wherever_it_lies(himl: Himl, project: Path) -> None:
    himl.ok("download", "train_1_aa", "--output_key", "predictions", "--flat", "--output_dir", "here")
    assert tree(project / "here") == {"part/0.csv": b"0,1\n", "part/1.csv": b"2,3\n"}
    outcome = himl("download", "train_1_aa", "--output_key", "nope")
    assert (outcome.code, "predictions" in outcome.stderr) == (3, True)


@pytest.mark.usefixtures("seeded")
def test_datastore_list_and_download(himl: Himl, project: Path) -> None:
    assert himl.ok("datastore", "list", "-q").stdout.splitlines()[-4:] == ["data/a.txt", "data/größe.txt", "data/sub/b.txt", "other.txt"]
    rows = [line.split("\t")[:2] for line in himl.ok("datastore", "list", "data/", "--datastore", DEFAULT).stdout.splitlines()[1:]]
    assert rows == [["data/a.txt", "1"], ["data/größe.txt", "3"], ["data/sub/b.txt", "2"]]
    himl.ok("datastore", "download", "data/sub", "here")
    assert tree(project / "here") == {"data/sub/b.txt": b"bb"}


def test_datastore_upload_skips_complete_files_on_second_call(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    write_files(project, {"up/x.txt": b"xx", "up/deep/y.txt": b"yyy"})
    assert himl.ok("datastore", "upload", "up", "new").stdout.startswith("Uploaded 2 files (5 B) to 'new'")
    assert (seeded.get_blob(DEFAULT, "new/x.txt"), seeded.get_blob(DEFAULT, "new/deep/y.txt")) == (b"xx", b"yyy")
    assert "2 complete already" in himl.ok("datastore", "upload", "up", "new").stdout
    write_files(project, {"up/x.txt": b"zz"})
    outcome = himl("datastore", "upload", "up", "new")
    assert (outcome.code, "new/x.txt" in outcome.stderr, seeded.get_blob(DEFAULT, "new/x.txt")) == (1, True, b"xx")
    himl.ok("datastore", "upload", "up", "new", "--overwrite")
    assert seeded.get_blob(DEFAULT, "new/x.txt") == b"zz"


def test_data_goes_to_azure_unless_the_local_workspace_is_named(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    (project / ".himl").mkdir()
    write_files(project, {"up/x.txt": b"xx"})
    himl.ok("datastore", "upload", "up", "there")
    himl.ok("datastore", "upload", "up", "here", "-w", "local")
    assert seeded.blob_names(DEFAULT, "there") == ["there/x.txt"]
    assert seeded.blob_names(DEFAULT, "here") == []
    assert himl.ok("datastore", "list", "-q", "-w", "local").stdout == "here/x.txt\n"


def loaded(himl: Himl, names: list[str], *arguments: str) -> str:
    """Which of the modules *names* a command imports."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(names=names), *arguments], cwd=himl.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1]


COMMANDS = [
    ["runs", "list", "-q"],
    ["runs", "show", "train_1_aa", "-q"],
    ["runs", "logs", "train_1_aa"],
    ["download", "train_1_aa", "-q"],
    ["datastore", "list", "-q"],
    ["workspace", "show", "-q"],
]


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command) for command in COMMANDS])
def test_read_commands_import_no_heavy_sdk_nor_auth_when_cached(himl: Himl, command: list[str]) -> None:
    """With a warm cache, azure.identity, msal and azure.storage are not imported either."""
    assert loaded(himl, HEAVY, *command) == "LOADED []"
    assert loaded(himl, [*HEAVY, "azure.identity", "msal", "azure.storage"], *command) == "LOADED []"


def test_a_warm_download_asks_two_things_before_it_lists(himl: Himl, seeded: StagedWorkspace) -> None:
    """Token, workspace record and signature were kept by the first call."""
    himl.ok("download", "train_1_aa", "--output_dir", "first")
    seeded.stage.log.clear()
    himl.ok("download", "train_1_aa", "--output_dir", "second")
    asked = seeded.requests()
    listing = next(place for place, line in enumerate(asked) if "comp=list" in line)
    assert listing <= 2, asked[: listing + 1]


@pytest.mark.usefixtures("seeded")
def test_without_a_cache_folder_everything_works(himl: Himl, project: Path) -> None:
    himl.ok("download", "train_1_aa", env={"HIML_NO_CACHE": "1"})
    assert (project / "outputs" / "train_1_aa" / "outputs" / "model.bin").stat().st_size == 100_000
    assert {path.name for path in transfers().parent.iterdir()} == {"transfers"}, "the state of downloads is no record of Azure"


def test_a_file_of_another_workspace_is_not_replaced(azure_environment: StagedWorkspace, stage: Stage, himl: Himl, project: Path) -> None:
    """Every workspace calls its default datastore alike."""
    azure_environment.put_blobs(DEFAULT, {"d/f.txt": b"of one"})
    azure_environment.write_config(project)
    himl.ok("datastore", "download", "d", "out")
    other = stage.workspace()
    other.put_blobs(DEFAULT, {"d/f.txt": b"of the other"})
    other.write_config(project)
    outcome = himl("datastore", "download", "d", "out", env=other.environment())
    assert outcome.code == 1
    assert "differ" in outcome.stderr
    assert (project / "out/d/f.txt").read_text() == "of one"


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process there at once")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_download_that_was_stopped_goes_on_from_what_came(azure_environment: StagedWorkspace, stage: Stage, himl: Himl, project: Path, number: int) -> None:
    azure, body = azure_environment, bytes(range(256)) * (40 << 12)
    azure.put_blobs(DEFAULT, {"big.bin": body})
    azure.write_config(project)
    stage.faults.add(Drip(400_000), "GET .*/big.bin", times=None)  # so that many pieces are under way and none is through
    with himl.start("datastore", "download", "big.bin", "out") as process:
        until(lambda: on_disk(project / "out") >= 8 << 20)
        process.send_signal(number)
        _, said = process.communicate(timeout=100)
    assert (process.returncode, b"Interrupted" in said) == (130, True)
    stage.faults.clear()
    stage.log.clear()
    himl.ok("datastore", "download", "big.bin", "out")
    assert (project / "out/big.bin").read_bytes() == body
    assert sum(seen.received for seen in stage.log.find("GET .*/big.bin")) < len(body) - (6 << 20)


def on_disk(folder: Path) -> int:
    """Bytes that the files in *folder* really take: holes do not count."""
    return sum(path.stat().st_blocks * 512 for path in files_below(folder))

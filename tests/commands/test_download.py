"""Tests of `himl download` and `himl datastore`, locally and on Azure ML: files, messages and exit codes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.azureml_double.seeding import DEFAULT, StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.folders import contents, transfers
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

FILES = {
    "outputs/results.json": b"{}",
    "outputs/checkpoints/last.ckpt": b"weights" * 1000,
    "outputs/checkpoints/epoch=3.ckpt": b"w3" * 100,
    "logs/events": b"events",
    "user_logs/std_log.txt": b"epoch 1\n",
}
DATA = {"train.csv": b"a,b\n1,2\n", "images/1.png": b"one", "images/2.png": b"two"}
RUN_FILES = {
    "outputs/model.bin": b"m" * 100_000,
    "outputs/empty": b"",
    "logs/a b#%?.txt": b"log",
    "user_logs/std_log.txt": "größe\n".encode(),
}


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"outputs/old.txt": "old"})
    runs.add("train_2_bb", files=FILES)
    runs.add("bare_3_cc", experiment="bare")
    (project / "most_recent_run.txt").write_text("train:train_2_bb\n")
    return runs


@pytest.mark.large("starts several ranks")
@pytest.mark.usefixtures("recorded")
def test_of_several_ranks_one_downloads_and_all_succeed(himl: Himl, project: Path) -> None:
    ranks = [
        himl.start("download", "--json", env={"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "4"}, new_session=False)
        for rank in (3, 1, 0, 2)
    ]
    documents = [json.loads(rank.communicate(timeout=100)[0]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4
    assert documents == [documents[0]] * 4
    assert (documents[0]["files"], len(files_in(project / "outputs"))) == (5, 5)


def test_of_a_sweep_it_is_said_where_the_trials_files_are(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("sweep", tags={"himl.many": "sweep"}, files={"user_logs/std_log.txt": "done"})
    runs.add("sweep_0", parent="sweep", files={"outputs/model.txt": "weights"})
    hint = "Run 'sweep' is a sweep. To download the files of its child runs, use --children."
    assert hint in himl.ok("download", "sweep").stderr
    assert hint not in himl.ok("download", "sweep", "--children").stderr
    nothing = himl("tb", "sweep", "--sync_only")
    assert nothing.code == 3
    assert nothing.stderr.startswith("error: None of these 2 runs has event files.\n"), (
        "there they are looked at without being asked for"
    )


def files_in(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if not name.startswith(".himl-")}


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.usefixtures("recorded")
def test_files_are_listed_and_arrive_as_options_say(himl: Himl, project: Path) -> None:
    quiet = himl.ok("download", "--list", "-q")
    table = himl.ok("download", "--list", "--prefix", "logs")
    records = himl.ok("download", "--experiment", "train", "--num_runs", "all", "--list", "--json").json()
    assert quiet.stdout.splitlines() == sorted(FILES)
    assert table.stdout.splitlines()[0] == "name\tsize\tmodified"
    assert table.stdout.splitlines()[1].startswith("logs/events\t6\t20")
    assert [(record["run"], record["name"], record["size"]) for record in records][-1] == (
        "train_1_aa",
        "outputs/old.txt",
        3,
    )
    assert not (project / "outputs").exists()
    place = os.path.join("outputs", "train_2_bb")
    first, again = himl.ok("download"), himl.ok("download")
    assert files_in(project / "outputs") == {f"train_2_bb/{name}": body for name, body in FILES.items()}
    assert first.stdout.startswith(f"Downloaded 5 files (7.2 KB) to '{place}' in ")
    assert again.stdout.startswith(f"Downloaded 0 files (0 B) to '{place}' in ")
    assert again.stdout.endswith("; 5 already complete.\n")
    assert (first.stderr, again.stderr, himl.ok("download", "-q").stdout) == ("", "", f"{place}\n")
    (project / place / "outputs/results.json").write_text("[]")
    assert himl.ok("download", "--no_validate", "--prefix", "outputs/results.json").stdout.endswith(
        "; 1 already complete; 1 not verifiable.\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="symlinks need a right on Windows")
def test_links_that_lead_out_of_a_run_come_on_request(himl: Himl, project: Path, recorded: RecordedRuns) -> None:
    private = {"key": "private", "events/events.out.tfevents.1": "private"}
    write_files(project.parent / "elsewhere", private)
    code = recorded.folder / ".himl" / "runs" / "train_2_bb" / "code"
    (code / "outputs" / "key").symlink_to(project.parent / "elsewhere" / "key")
    (code / "logs" / "more").symlink_to(project.parent / "elsewhere" / "events")
    outcome = himl.ok("download", "--list", "-q")
    said = (
        "himl: himl omits links that lead out of run 'train_2_bb': 'logs/more', 'outputs/key'. To include "
        "them, add --follow_links"
    )
    assert (outcome.stdout.splitlines(), outcome.stderr.startswith(said)) == (sorted(FILES), True)
    assert himl("download", "--prefix", "outputs/key").code == 3
    assert himl("tb", "--sync_only").code == 3
    assert himl("runs", "logs", "--file", "outputs/key").code == 3
    assert himl("checkpoint", "fetch", "train_2_bb:outputs/key").code == 3
    followed = himl.ok("download", "--follow_links")
    there = dict(zip(("outputs/key", "logs/more/events.out.tfevents.1"), (b"private", b"private"), strict=True))
    assert (files_in(project / "outputs" / "train_2_bb"), followed.stderr) == (FILES | there, "")
    assert himl.ok("tb", "--sync_only", "--follow_links", "-q").stdout.strip() == str(code / "logs")


@pytest.mark.usefixtures("recorded")
def test_bad_input_is_one_line_and_a_hint_and_leaves_nothing(himl: Himl, project: Path) -> None:
    for arguments, code, said in [
        (["train_2_bX"], 3, "train_2_bb"),
        (["--run", "train_1_aa,train_2_bb", "--flat"], 2, "--flat takes one run"),
        (["--output_key", "model"], 3, "no output 'model'"),
    ]:
        before = sorted(path.name for path in project.iterdir())
        outcome = himl("download", *arguments)
        assert (outcome.code, outcome.stdout) == (code, "")
        assert said in outcome.stderr
        assert 1 <= len(outcome.stderr.splitlines()) <= 2
        assert sorted(path.name for path in project.iterdir()) == before
    assert himl.ok("download", "bare_3_cc").stdout == "Run 'bare_3_cc' has no files.\n"
    assert himl.ok("download", "bare_3_cc", "-q").stdout == ""
    assert not (project / "outputs").exists()
    outcome = himl.ok("download", "--run", "train_1_aa,train_2_bb", "--run", "bare_3_cc", "--prefix", "outputs/o")
    assert files_in(project / "outputs") == {"train_1_aa/outputs/old.txt": b"old"}
    assert ("train_2_bb" in outcome.stderr, "bare_3_cc" in outcome.stderr) == (True, True)
    assert "Run 'bare_3_cc' has no files.\n" in himl.ok("download", "bare_3_cc", "train_1_aa").stderr


@pytest.mark.usefixtures("recorded")
def test_differing_file_is_kept_with_exit_1_unless_overwrite(himl: Himl, project: Path) -> None:
    write_files(project / "outputs" / "train_2_bb", dict.fromkeys(FILES, "mine"))
    said = himl("download").stderr.splitlines()
    assert said[:-2] == [f"differs, not replaced: train_2_bb/{name}" for name in sorted(FILES)]
    assert said[-2:] == [
        "error: himl did not replace 5 files, because they differ.",
        "hint: Add --overwrite to replace them.",
    ]
    name = "train_2_bb/outputs/results.json"
    left, as_json = himl("download", "--prefix", "outputs/r"), himl("download", "--prefix", "outputs/r", "--json")
    assert (left.code, left.stderr) == (
        1,
        f"error: himl did not replace '{name}', because it differs.\nhint: Add --overwrite to replace it.\n",
    )
    assert left.stdout.endswith("; 1 not replaced because it differs.\n")
    assert (as_json.code, as_json.json()["differing"]) == (1, [name])
    assert (project / "outputs" / name).read_bytes() == b"mine"
    himl.ok("download", "--prefix", "outputs/r", "--overwrite")
    assert (project / "outputs" / name).read_bytes() == b"{}"


@pytest.fixture
def store(project: Path) -> Path:
    RecordedRuns(project)
    write_files(project / "data", DATA)
    (project / ".himl/datastores/shared").mkdir()
    return project / ".himl/datastores/local"


def test_folder_goes_up_and_comes_back(himl: Himl, project: Path, store: Path) -> None:
    assert himl.ok("datastore", "list").stdout == "name\tsize\tmodified\n"
    up = himl.ok("datastore", "upload", "data", "digits")
    again = himl.ok("datastore", "upload", "data", "digits/", "--json").json()
    down = himl.ok("datastore", "download", "digits", "back")
    assert files_in(store) == {f"digits/{name}": body for name, body in DATA.items()}
    assert files_in(project / "back") == files_in(store)
    assert up.stdout.startswith(
        "Uploaded 3 files (14 B) to 'digits' (datastore 'local' of local workspace '.himl') in "
    )
    assert (again["files"], again["skipped"], again["places"]) == (0, 3, ["digits"])
    assert down.stdout.startswith("Downloaded 3 files (14 B) to 'back' in ")
    assert (
        himl.ok("datastore", "list", "--include", "*.csv").stdout.splitlines()[1].startswith("digits/train.csv\t8\t2")
    )
    assert himl.ok("datastore", "list", "digits/images", "-q").stdout == "digits/images/1.png\ndigits/images/2.png\n"
    for prefix, place in (("/", "."), ("a//b", "a/b")):
        options = ("--datastore", "shared", "--include", "*.png", "--exclude", "2.*")
        assert f" to '{place}' (" in himl.ok("datastore", "upload", "data", prefix, *options).stdout
    assert files_in(store.parent / "shared") == {"images/1.png": b"one", "a/b/images/1.png": b"one"}
    himl.ok("datastore", "upload", "data", "rots")
    rotten = store / "rots/images/1.png"
    before = rotten.stat()
    rotten.write_bytes(b"0ne")
    os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))
    outcome = himl("datastore", "download", "rots", "rotten", "--json")
    assert (outcome.code, outcome.error_json()["code"]) == (6, "integrity_failed")
    assert outcome.json()["failed"][0]["name"] == "rots/images/1.png"
    assert {*files_in(project / "rotten")} == {"rots/train.csv", "rots/images/2.png"}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_what_cannot_be_uploaded_is_told(himl: Himl, project: Path) -> None:
    himl.ok("init", "--local")
    write_files(project, {"data/a.txt": "a", "none/.keep/x": "", "config.json": "{bad"})
    (project / "data" / "gone.ckpt").symlink_to(project / "nowhere")
    outcome = himl("datastore", "upload", "data", "data")
    assert (
        outcome.code,
        "left out 'data/gone.ckpt' (it is a link to a file that does not exist)" in outcome.stderr,
    ) == (1, True), outcome.stderr
    assert "config.json" in outcome.stderr, "data would go elsewhere with a valid one"
    assert himl.ok("datastore", "list", "-q").stdout == "data/a.txt\n"
    (project / "data" / "a.txt").write_text("new")
    assert "hint: Add --overwrite to replace files that differ." in himl("datastore", "upload", "data", "data").stderr
    for place in (".himl", ".himl/datastores", ".himl/datastores/local/data"):
        outcome = himl("datastore", "upload", place, "data/copy")
        assert (outcome.code, "contains the destination, datastore 'local'" in outcome.stderr) == (2, True), (
            outcome.stderr
        )
    himl.ok("datastore", "upload", ".", "all", "--exclude", "*.ckpt")
    (project / "empty").mkdir()
    outcome = himl("datastore", "upload", "empty", "x")
    assert (
        outcome.code,
        "There are no files to upload in 'empty'." in outcome.stderr,
        "hint: Check" in outcome.stderr,
    ) == (3, True, False), outcome.stderr
    assert "no .himl folder in" in himl("datastore", "list", "-w", "local", cwd=project.parent).stderr


@pytest.mark.usefixtures("store")
def test_bad_input_is_said_in_a_line_and_leaves_nothing(himl: Himl, project: Path) -> None:
    for arguments, code, said in [
        (["upload", "data", "x", "--datastore", "nope"], 3, "there are: local, shared"),
        (["download", "nothing", "back"], 3, "contains no files"),
    ]:
        outcome = himl("datastore", *arguments)
        assert (outcome.code, outcome.stdout) == (code, "")
        assert said in outcome.stderr
        assert sorted(path.name for path in project.iterdir()) == [".himl", "data"]


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS file names with line breaks")
def test_names_with_line_breaks_are_refused_or_escaped(himl: Himl, project: Path, store: Path) -> None:
    write_files(project / "odd", {"plain": b"1", "C:\\x": b"2", "two\nlines": b"3"})
    up = himl("datastore", "upload", "odd", "odd")
    assert files_in(store) == {"odd/plain": b"1"}
    assert (
        up.code,
        "it is an absolute path on Windows" in up.stderr,
        "it contains control characters" in up.stderr,
    ) == (1, True, True), up.stderr
    write_files(store, {"a b": b"", "two\nlines": b"", "z\u2028\r": b""})
    assert himl.ok("datastore", "list", "-q").stdout.splitlines() == ["a b", "odd/plain", "two\\nlines", "z\\u2028\\r"]
    assert himl.ok("datastore", "list", "--null").stdout == "a b\0odd/plain\0two\nlines\0z\u2028\r\0"


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train")
    azure.put_artifacts(run, RUN_FILES)
    azure.add_output(run, "predictions", {"part/0.csv": b"0,1\n", "part/1.csv": b"2,3\n"})
    azure.put_blobs(
        DEFAULT, {"data/a.txt": b"a", "data/sub/b.txt": b"bb", "data/größe.txt": b"ccc", "other.txt": b"dddd"}
    )
    return azure


@pytest.mark.large("takes long, and other tests run its branches")
def test_download_from_azure_takes_all_or_what_is_named(himl: Himl, project: Path, seeded: StagedWorkspace) -> None:
    first = himl.ok("download", "train_1_aa", env={"HIML_NO_CACHE": "1"})
    assert {path.name for path in transfers().parent.iterdir()} == {"transfers"}, (
        "the state of downloads is no record of Azure"
    )
    assert files_in(project / "outputs" / "train_1_aa") == RUN_FILES
    assert first.stdout.startswith(f"Downloaded 4 files (100.0 KB) to '{Path('outputs') / 'train_1_aa'}'")
    assert "0 files" in himl.ok("download", "train_1_aa").stdout
    himl.ok("download", "train_1_aa", "--prefix", "outputs", "--strip_prefix", "--flat", "--output_dir", "a")
    assert sorted(files_in(project / "a")) == ["empty", "model.bin"]
    assert himl.ok("download", "train_1_aa", "--list", "--include", "*.txt", "-q").stdout.splitlines() == [
        "logs/a b#%?.txt",
        "user_logs/std_log.txt",
    ]
    himl.ok("download", "train_1_aa", "--output_key", "predictions", "--flat", "--output_dir", "b")
    assert files_in(project / "b") == {"part/0.csv": b"0,1\n", "part/1.csv": b"2,3\n"}
    outcome = himl("download", "train_1_aa", "--output_key", "nope")
    assert (outcome.code, "predictions" in outcome.stderr) == (3, True)
    run = seeded.add_run("logged_2_bb", "train")
    for name in (
        "user_logs/std_log.txt",
        "logs/azureml/executionlogs.txt",
        "azureml-logs/hyperdrive.txt",
        "system_logs/lifecycler/lifecycler.log",
    ):
        seeded.append_log(run, "line\n", name=name)
    for command in (("download",), ("download", "--overwrite")):
        assert "not verifiable" not in himl.ok(*command, "logged_2_bb").stdout
    seeded.append_log(run, "1,2\n", name="logs/mine.csv")
    assert "; 1 not verifiable" in himl.ok("download", "logged_2_bb").stdout
    seeded.append_log(seeded.add_run("open_3_cc", "train", status="Running"), "line\n")
    for asked, told in (
        (["open_3_cc"], "Run 'open_3_cc' has not ended. It may write more files.\n"),
        (["open_3_cc", "--list"], "Run 'open_3_cc' has not ended. It may write more files.\n"),
        (["open_3_cc", "train_1_aa"], "1 of 2 runs have no recorded end. They may write more files.\n"),
        (["train_1_aa"], ""),
    ):
        assert himl.ok("download", *asked).stderr == told


@pytest.mark.large("takes long, and other tests run its branches")
def test_datastore_in_azure_is_listed_read_and_written(
    himl: Himl, seeded: StagedWorkspace, project: Path, stage: Stage
) -> None:
    assert himl.ok("datastore", "list", "-q").stdout.splitlines()[-4:] == [
        "data/a.txt",
        "data/größe.txt",
        "data/sub/b.txt",
        "other.txt",
    ]
    rows = [
        line.split("\t")[:2]
        for line in himl.ok("datastore", "list", "data/", "--datastore", DEFAULT).stdout.splitlines()[1:]
    ]
    assert rows == [["data/a.txt", "1"], ["data/größe.txt", "3"], ["data/sub/b.txt", "2"]]
    himl.ok("datastore", "download", "data/sub", "here")
    assert files_in(project / "here") == {"data/sub/b.txt": b"bb"}
    write_files(project, {"up/x.txt": b"xx", "up/deep/y.txt": b"yyy"})
    assert himl.ok("datastore", "upload", "up", "new").stdout.startswith("Uploaded 2 files (5 B) to 'new'")
    assert (seeded.get_blob(DEFAULT, "new/x.txt"), seeded.get_blob(DEFAULT, "new/deep/y.txt")) == (b"xx", b"yyy")
    assert "2 already complete" in himl.ok("datastore", "upload", "up", "new").stdout
    write_files(project, {"up/x.txt": b"zz"})
    outcome = himl("datastore", "upload", "up", "new")
    assert (outcome.code, "new/x.txt" in outcome.stderr, seeded.get_blob(DEFAULT, "new/x.txt")) == (1, True, b"xx")
    himl.ok("datastore", "upload", "up", "new", "--overwrite")
    assert seeded.get_blob(DEFAULT, "new/x.txt") == b"zz"
    (project / ".himl").mkdir()
    himl.ok("datastore", "upload", "up/x.txt", "local", "-w", "local")
    assert seeded.blob_names(DEFAULT, "local") == []
    assert himl.ok("datastore", "list", "-q", "-w", "local").stdout == "local/x.txt\n"
    seeded.add_datastore("readable", credentials="Sas", sas_permissions="rl")
    write_files(project / "many", {f"{number:03d}.txt": "x" for number in range(300)})
    outcome = himl("datastore", "upload", "many", "up", "--datastore", "readable", "--workers", "4")
    error, *hint = outcome.stderr.splitlines()
    assert (outcome.code, outcome.stdout, "files failed like this. The others were not tried." in error) == (
        4,
        "",
        True,
    )
    assert [line.startswith("hint: ") and "Run the command again" not in line for line in hint] == [True]
    assert len(stage.log.find(r"PUT .*/up/")) < 150

"""`himl download`: what arrives, what is said, and the exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

FILES = {
    "outputs/results.json": b"{}",
    "outputs/checkpoints/last.ckpt": b"weights" * 1000,
    "outputs/checkpoints/epoch=3.ckpt": b"w3" * 100,
    "logs/events": b"events",
    "user_logs/std_log.txt": b"epoch 1\n",
}


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={"outputs/old.txt": "old"})
    runs.add("train_2_bb", files=FILES)
    runs.add("bare_3_cc", experiment="bare")
    (project / "most_recent_run.txt").write_text("train:train_2_bb\n")
    return runs


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".himl-")
    }


@pytest.mark.usefixtures("recorded")
def test_the_latest_runs_files_arrive_and_the_summary_says_so(himl: Himl, project: Path) -> None:
    first = himl.ok("download")
    again = himl.ok("download")
    assert files_in(project / "outputs") == {f"train_2_bb/{name}": body for name, body in FILES.items()}
    place = os.path.join("outputs", "train_2_bb")
    assert first.stdout.startswith(f"Downloaded 5 files (7.2 KB) to '{place}' in ")
    assert again.stdout.startswith(f"Downloaded 0 files (0 B) to '{place}' in ")
    assert again.stdout.endswith("; 5 complete already.\n")
    assert (first.stderr, again.stderr) == ("", "")


@pytest.mark.usefixtures("recorded")
def test_prefix_globs_flat_and_strip_prefix(himl: Himl, project: Path) -> None:
    himl.ok("download", "--prefix", "outputs/checkpoints", "--flat", "--strip-prefix", "--output_dir", "a", "--exclude", "epoch*")
    himl.ok("download", "train_2_bb", "--include", "*.ckpt,events", "--output-dir", "b")
    himl.ok("download", "--prefix", "outputs/results.json", "--flat", "--output_dir", "c")
    assert files_in(project / "a") == {"last.ckpt": FILES["outputs/checkpoints/last.ckpt"]}
    assert {*files_in(project / "b")} == {f"train_2_bb/{name}" for name in FILES if name.endswith(("ckpt", "events"))}
    assert {*files_in(project / "c")} == {"outputs/results.json"}


@pytest.mark.usefixtures("recorded")
def test_json_is_one_document_and_quiet_is_the_folder(himl: Himl, project: Path) -> None:
    document = himl.ok("download", "--json").json()
    quiet = himl.ok("download", "-q").stdout
    assert document.pop("seconds") >= 0
    assert document == {
        "files": 5,
        "bytes": sum(map(len, FILES.values())),
        "skipped": 0,
        "unverified": 0,
        "differing": [],
        "refused": [],
        "failed": [],
        "places": [os.path.join("outputs", "train_2_bb")],
    }
    assert quiet == f"{os.path.join('outputs', 'train_2_bb')}\n"


@pytest.mark.usefixtures("recorded")
def test_runs_download_to_own_folders_and_empty_ones_are_named(himl: Himl, project: Path) -> None:
    outcome = himl.ok("download", "--run", "train_1_aa,train_2_bb", "--run", "bare_3_cc", "--prefix", "outputs/o")
    assert files_in(project / "outputs") == {"train_1_aa/outputs/old.txt": b"old"}
    assert "train_2_bb" in outcome.stderr
    assert "bare_3_cc" in outcome.stderr


@pytest.mark.usefixtures("recorded")
def test_hi_mls_option_names_work(himl: Himl, project: Path) -> None:
    himl.ok("download", "--run_ids", "train_1_aa", "--parallel", "2")
    himl.ok("download", "--run_recovery_ids", "train:train_2_bb", "--files_to_download", "logs")
    assert {*files_in(project / "outputs")} == {"train_1_aa/outputs/old.txt", "train_2_bb/logs/events"}


@pytest.mark.usefixtures("recorded")
def test_list_names_the_files_and_downloads_nothing(himl: Himl, project: Path) -> None:
    quiet = himl.ok("download", "--list", "-q")
    table = himl.ok("download", "--list", "--prefix", "logs")
    records = himl.ok("download", "--experiment", "train", "--num_runs", "all", "--list", "--json").json()
    assert quiet.stdout.splitlines() == sorted(FILES)
    assert table.stdout.splitlines()[0] == "name\tsize\tmodified"
    assert table.stdout.splitlines()[1].startswith("logs/events\t6\t20")
    assert [(record["run"], record["name"], record["size"]) for record in records][-1] == ("train_1_aa", "outputs/old.txt", 3)
    assert not (project / "outputs").exists()


@pytest.mark.usefixtures("recorded")
def test_differing_file_is_kept_with_exit_1_unless_overwrite(himl: Himl, project: Path) -> None:
    write_files(project / "outputs" / "train_2_bb", {"outputs/results.json": "mine"})
    left = himl("download", "--prefix", "outputs/r")
    as_json = himl("download", "--prefix", "outputs/r", "--json")
    kept = (project / "outputs/train_2_bb/outputs/results.json").read_bytes()
    replaced = himl("download", "--prefix", "outputs/r", "--overwrite")
    assert (left.code, as_json.code, replaced.code, kept) == (1, 1, 0, b"mine")
    name = "train_2_bb/outputs/results.json"
    assert left.stderr == f"error: Left as it is, because it differs: '{name}'.\nhint: Add --overwrite to replace it.\n"
    assert left.stdout.endswith("; 1 left because it differs.\n")
    assert as_json.json()["differing"] == ["train_2_bb/outputs/results.json"]
    assert (project / "outputs/train_2_bb/outputs/results.json").read_bytes() == b"{}"


@pytest.mark.usefixtures("recorded")
def test_many_files_that_differ_are_listed_and_then_counted(himl: Himl, project: Path) -> None:
    write_files(project / "outputs" / "train_2_bb", dict.fromkeys(FILES, "mine"))
    said = himl("download").stderr.splitlines()
    assert said[:-2] == [f"differs, left as it is: train_2_bb/{name}" for name in sorted(FILES)]
    assert said[-2:] == ["error: 5 files: left as they are, because they differ.", "hint: Add --overwrite to replace them."]


@pytest.mark.usefixtures("recorded")
def test_a_run_without_files_is_said_and_no_folder_is_promised(himl: Himl, project: Path) -> None:
    assert himl.ok("download", "bare_3_cc").stdout == "Run 'bare_3_cc' has no files.\n"
    assert himl.ok("download", "bare_3_cc", "-q").stdout == ""
    assert not (project / "outputs").exists()
    assert "Run 'bare_3_cc' has no files.\n" in himl.ok("download", "bare_3_cc", "train_1_aa").stderr


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("workers", ["0", "257"])
def test_a_number_of_workers_that_cannot_be_is_said_plainly(himl: Himl, workers: str) -> None:
    outcome = himl("download", "--workers", workers)
    assert (outcome.code, outcome.stderr) == (2, f"error: --workers takes a whole number from 1 to 256, got {workers}.\n")


@pytest.mark.usefixtures("recorded")
def test_a_log_that_grew_is_renewed(himl: Himl, project: Path) -> None:
    himl.ok("download")
    with open(project / ".himl/runs/train_2_bb/user_logs/std_log.txt", "ab") as log:
        log.write(b"epoch 2\n")
    outcome = himl.ok("download")
    assert outcome.stdout.startswith("Downloaded 1 file (16 B)")
    assert (project / "outputs/train_2_bb/user_logs/std_log.txt").read_bytes() == b"epoch 1\nepoch 2\n"


@pytest.mark.usefixtures("recorded")
def test_no_validate_compares_sizes_only_and_says_so(himl: Himl, project: Path) -> None:
    write_files(project / "outputs" / "train_2_bb", {"outputs/results.json": "[]"})
    outcome = himl.ok("download", "--no_validate", "--prefix", "outputs/results.json")
    assert outcome.stdout.endswith("; 1 complete already; 1 not verifiable.\n")


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--prefix", "output/"], 3, "Did you mean 'outputs'?"),
        (["--include", "*.png"], 3, "passes --include and --exclude"),
        (["train_2_bX"], 3, "train_2_bb"),
        (["--output_dir", "most_recent_run.txt"], 2, "is a file"),
        (["--run", "train_1_aa,train_2_bb", "--flat"], 2, "--flat takes one run"),
        (["--workers", "0"], 2, "--workers"),
        (["--include", "[z-a]"], 2, "glob"),
        (["--output_key", "model"], 3, "no output 'model'"),
        (["--workspace", "nowhere"], 3, "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_a_hint_and_leaves_nothing(himl: Himl, project: Path, arguments: list[str], code: int, said: str) -> None:
    before = sorted(path.name for path in project.iterdir())
    outcome = himl("download", *arguments)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert said in outcome.stderr
    assert 1 <= len(outcome.stderr.splitlines()) <= 2
    assert sorted(path.name for path in project.iterdir()) == before


def test_an_output_dataset_is_taken_instead_of_the_artifacts(himl: Himl, recorded: RecordedRuns, project: Path) -> None:
    (project / ".himl/runs/train_2_bb/job.json").write_text(json.dumps({"outputs": {"model": str(project / "elsewhere")}}))
    write_files(project / "elsewhere", {"m/weights": "w"})
    himl.ok("download", "--output_key", "model")
    assert files_in(project / "outputs") == {"train_2_bb/m/weights": b"w"}


@pytest.mark.usefixtures("recorded")
def test_of_several_ranks_one_downloads_and_all_succeed(himl: Himl, project: Path) -> None:
    ranks = [himl.start("download", "--json", env={"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "4"}, new_session=False) for rank in (3, 1, 0, 2)]
    documents = [json.loads(rank.communicate(timeout=100)[0]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4
    assert documents == [documents[0]] * 4
    assert (documents[0]["files"], len(files_in(project / "outputs"))) == (5, 5)


@pytest.mark.usefixtures("recorded")
def test_ranks_fail_alike(himl: Himl, project: Path) -> None:
    write_files(project / "outputs" / "train_2_bb", {"outputs/results.json": "mine"})
    ranks = [himl.start("download", env={"LOCAL_RANK": str(rank)}, new_session=False) for rank in (1, 0)]
    said = [rank.communicate(timeout=100)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert said[0] == said[1] != b""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS file names that are not Unicode")
def test_odd_names_are_shown_and_arrive(himl: Himl, recorded: RecordedRuns, project: Path) -> None:
    folder = project / ".himl/runs/bare_3_cc/code/outputs"
    folder.mkdir(parents=True)
    for name in (b"gr\xfc\xdfe", b"line\nbreak", b"plain"):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(name)
    outcome = himl("download", "bare_3_cc", "--json")
    listed = himl.ok("download", "bare_3_cc", "--list", "-q")
    assert (outcome.code, outcome.json()["files"], [one["name"] for one in outcome.json()["refused"]]) == (1, 2, ["outputs/line\nbreak"])
    assert sorted(os.listdir(os.fsencode(project / "outputs/bare_3_cc/outputs"))) == [b"gr\xfc\xdfe", b"plain"]
    assert b"outputs/gr\xfc\xdfe\n" in listed.raw_stdout


@pytest.mark.usefixtures("recorded")
def test_what_comes_is_not_imported_before_it_is_needed(himl: Himl) -> None:
    source = "import sys, himl_cli.commands.files; print(sorted({'filelock', 'sqlite3', 'rich', 'hashlib'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS POSIX signals")
def test_ctrl_c_exits_with_130_and_the_next_call_goes_on(himl: Himl, recorded: RecordedRuns, project: Path) -> None:
    size = 300 << 20
    recorded.add("large_4_dd", files={"outputs/a": "first"})
    source = project / ".himl/runs/large_4_dd/code/outputs/big"
    source.touch()
    os.truncate(source, size)
    folder = project / "outputs/large_4_dd/outputs"
    for _ in range(20):  # the next one where it was through before the signal came
        shutil.rmtree(project / "outputs", ignore_errors=True)
        process = himl.start("download", "large_4_dd")
        while not [*folder.glob(".big.*.himl-part")] and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=100)[1]
        if process.returncode:
            break
    left = sorted(path.name for path in folder.iterdir())
    again = himl.ok("download", "large_4_dd", "--json").json()

    assert (process.returncode, len(said.splitlines()) <= 2) == (130, True), said
    assert [re.sub(r"\.[0-9a-f]{8}\.", ".", name) for name in left] == [".big.himl-part", "a"]
    assert (again["files"], again["skipped"], (folder / "big").stat().st_size) == (1, 1, size)


def test_of_a_sweep_it_is_said_where_the_trials_files_are(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("sweep", tags={"himl.many": "sweep"}, files={"user_logs/std_log.txt": "done"})
    runs.add("sweep_0", parent="sweep", files={"outputs/model.txt": "weights"})
    hint = "Run 'sweep' is a sweep: --children downloads the files of the runs below it."
    assert hint in himl.ok("download", "sweep").stderr
    assert hint not in himl.ok("download", "sweep", "--children").stderr
    nothing = himl("tb", "sweep", "--sync_only")
    assert nothing.code == 3
    assert nothing.stderr.startswith("error: None of these 2 runs has event files.\n"), "there they are looked at without being asked for"

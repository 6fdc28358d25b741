"""What `himl submit` tells of a job that runs here: its output, how it ended, and what to do when it failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.running import Himl, write_files
from tests.support.runs import latest

LACKS = "import no_such_package"


def test_a_python_that_lacks_a_module_is_named(himl: Himl, project: Path) -> None:
    write_files(project, {"lacks.py": LACKS, "raises.py": "raise ValueError('ModuleNotFoundError: no')"})
    outcome = himl("submit", "lacks.py", "--python", sys.executable)
    run = latest(himl)["id"]
    assert (outcome.code, outcome.stderr.splitlines()[-1]) == (
        1,
        f"hint: Its output: himl runs logs {run}; it ran with '{sys.executable}', --python names another",
    )
    swept = himl("submit", "lacks.py", "--different_seeds", "2", env={"VIRTUAL_ENV": sys.prefix})
    assert "; it ran with '" in swept.stderr.splitlines()[-1]
    assert swept.stderr.splitlines()[-1].index("--python names another; to do what is missing: himl submit --resume")
    other = himl("submit", "raises.py")
    assert other.stderr.splitlines()[-1] == f"hint: Its output: himl runs logs {latest(himl)['id']}"


def test_a_rank_that_lacks_a_module_has_its_python_named(himl: Himl, project: Path) -> None:
    write_files(project, {"lacks.py": f"import os, time\nif os.environ['RANK'] == '1':\n    {LACKS}\ntime.sleep(600)\n"})
    outcome = himl("submit", "lacks.py", "--processes_per_node", "2", "--python", sys.executable)
    assert outcome.stderr.splitlines()[-1].endswith(f" --file std_log_process_1.txt; it ran with '{sys.executable}', --python names another")


def test_failed_run_with_broken_record_still_gets_log_hint(himl: Himl, project: Path) -> None:
    write_files(project, {"lacks.py": "import pathlib\npathlib.Path('../job.json').write_text('{')\n" + LACKS})
    outcome = himl("submit", "lacks.py")
    assert outcome.stderr.splitlines()[-1] == f"hint: Its output: himl runs logs {latest(himl)['id']}"


def test_verbose_says_what_was_decided_and_no_secret(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    outcome = himl.ok("submit", "train.py", "-v", "--env_var", "API_TOKEN=marked-secret", "--", "--password", "marked-secret")
    assert "snapshot root" in outcome.stderr
    assert "starting a supervisor" in outcome.stderr
    assert "marked-secret" not in outcome.stderr


@pytest.mark.parametrize("options", [(), ("--json",), ("-q",)])
def test_error_after_unfinished_output_starts_on_new_line(himl: Himl, project: Path, options: tuple[str, ...]) -> None:
    write_files(project, {"train.py": "import sys; sys.stdout.write('no newline'); sys.exit(3)"})
    talk = himl("submit", "train.py", *options).stderr.splitlines()
    assert [line for line in talk if line.startswith(("error:", '{"error"'))]


def test_follow_and_no_wait_exclude_each_other(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('shown')"})
    assert himl("submit", "train.py", "--follow", "--no_wait").code == 2
    assert himl.ok("submit", "train.py", "--follow").stdout == "shown\n"


def test_a_rank_that_fails_ends_the_others_and_is_shown(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import os, sys, time\nif os.environ['RANK'] == '1':\n    print('boom'); sys.exit(7)\ntime.sleep(600)"})
    outcome = himl("submit", "train.py", "--processes_per_node", "2")
    assert outcome.code == 1
    assert "rank 1: exit code 7" in outcome.stderr
    assert "boom" in outcome.stderr
    assert "--file std_log_process_1.txt" in outcome.stderr
    assert latest(himl)["exit_code"] == 7


def test_no_wait_returns_at_once_with_the_id(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time; time.sleep(600)"})
    run_id = himl.ok("submit", "train.py", "--no_wait", "-q").stdout.strip()
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Running"
    himl.ok("runs", "cancel", run_id)
    himl("runs", "logs", "--follow", run_id)
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Canceled"


def test_quiet_prints_the_id_alone_and_the_log_on_stderr(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "print('hello')"})
    outcome = himl.ok("submit", "train.py", "-q")
    assert outcome.stdout.strip() == latest(himl)["id"]
    assert "hello" in outcome.stderr


def test_json_is_one_document_also_after_a_failure(himl: Himl, project: Path) -> None:
    write_files(project, {"good.py": "print('{not json')", "bad.py": "raise SystemExit(3)"})
    assert himl.ok("submit", "good.py", "--json").json()["status"] == "Completed"
    failed = himl("submit", "bad.py", "--json")
    assert (failed.code, failed.json()["status"], failed.json()["exit_code"]) == (1, "Failed", 3)


def test_the_script_s_exit_code_is_shown(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import sys; print('last words'); sys.exit(42)"})
    outcome = himl("submit", "train.py")
    assert outcome.code == 1
    assert "exit code 42" in outcome.stderr
    assert outcome.stdout == "last words\n"


def test_a_job_ends_after_its_maximum_duration(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "import time; time.sleep(600)"})
    outcome = himl("submit", "train.py", "--max_run_duration", "1s")
    assert outcome.code == 1
    assert "--max_run_duration" in latest(himl)["reason"]


def hint_of(himl: Himl, *words: str) -> str:
    outcome = himl("submit", *words)
    assert outcome.code != 0, outcome.stderr
    return outcome.stderr.splitlines()[-1]


def test_module_outside_snapshot_is_hinted_with_needed_options(himl: Himl, project: Path) -> None:
    write_files(project, {"jobs/train.py": "from tools import net", "tools/net.py": "", "jobs/pyproject.toml": ""})
    hint = hint_of(himl, "jobs/train.py")
    assert f"; 'tools' lies in '{project}', which is not sent: add --snapshot_root . --env_var PYTHONPATH=." in hint
    himl.ok("submit", "jobs/train.py", "--snapshot_root", ".", "--env_var", "PYTHONPATH=.")
    assert "not sent" not in hint_of(himl, "jobs/train.py", "--in_place")
    hint = hint_of(himl, "jobs/train.py", "--snapshot_root", ".")
    assert f"'tools' lies in '{project}', where Python does not look for it: add --env_var PYTHONPATH=." in hint
    (project / "tools" / "net.py").unlink()
    assert "--python names another" in hint_of(himl, "jobs/train.py")


def test_a_module_of_a_folder_above_is_told_with_its_root(himl: Himl, project: Path) -> None:
    write_files(project, {"lab/train.py": "", "lab/pyproject.toml": ""})
    outcome = himl("submit", "-m", "lab.train", cwd=project / "lab")
    assert f"'lab' lies in '{project}', which is not sent: add --snapshot_root .." in outcome.stderr
    himl.ok("submit", "-m", "lab.train", "--snapshot_root", "..", cwd=project / "lab")


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("no.such", 1, "-m takes a module that Python finds in '{}' or is installed; a script is named by its path: himl submit PATH.py"),
        ("nosuch", 1, "-m takes a module that Python finds in '{}' or is installed; a script is named by its path: himl submit PATH.py"),
        ("lab.trian", 2, "hint: Did you mean -m lab.train?"),
        ("lab", 2, "hint: Did you mean -m lab.train?"),
        ("lab.deep.none", 2, "hint: It would be '{}/lab/deep/none.py'."),
    ],
)
def test_a_module_that_is_not_there(himl: Himl, project: Path, name: str, code: int, told: str) -> None:
    write_files(project, {"lab/__init__.py": "", "lab/train.py": ""})
    outcome = himl("submit", "-m", name)
    assert (outcome.code, told.format(project) in outcome.stderr.replace("\\", "/")) == (code, True), outcome.stderr
    for works in ("lab.train", "pydoc"):
        himl.ok("submit", "-m", works, "--dry_run")


def test_dry_run_notes_module_that_only_cluster_may_have(himl: Himl, project: Path) -> None:
    write_files(project, {"lab/train.py": ""})
    show = ("--cluster", "gpu", "--docker_image", "me/train", "--dry_run")
    assert f"Module 'no.such' is not in '{project}': the job needs it in its environment." in himl.ok("submit", "-m", "no.such", *show).stderr
    assert "Module" not in himl.ok("submit", "-m", "lab.train", *show).stderr


READS = "from pathlib import Path\nprint(open({}).read())"


@pytest.mark.parametrize("path", ["'outputs/a.txt'", "Path(__file__).parent / 'outputs' / 'a.txt'", "'./data/raw/a.txt'", "'a.env'"])
def test_unsent_project_file_gets_hint_to_run_in_place(himl: Himl, project: Path, path: str) -> None:
    write_files(project, {"train.py": READS.format(path), ".gitignore": "data/\n", **dict.fromkeys(["outputs/a.txt", "data/raw/a.txt", "a.env"], "there")})
    hint = hint_of(himl, "train.py")
    assert f"a.txt' lies in '{project}', and is not sent: --in_place runs the job where it lies".replace("a.txt", path.strip("'")[-5:]) in hint
    assert himl.ok("submit", "train.py", "--in_place").stdout == "there\n"


def test_many_runs_get_such_a_file_as_data(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": READS.format("'outputs/a.txt'"), "outputs/a.txt": "there"})
    assert "make it data of the job, --input outputs,local=outputs, and read it in the folder that AZURE_ML_INPUT_INPUT_0 names" in hint_of(
        himl, "train.py", "--different_seeds", "2"
    )
    write_files(project, {"train.py": "import os; print(open(os.environ['AZURE_ML_INPUT_INPUT_0'] + '/a.txt').read())"})
    himl.ok("submit", "train.py", "--different_seeds", "2", "--input", "outputs,local=outputs")


def test_a_file_that_is_nowhere_or_was_sent_gets_no_such_hint(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": READS.format("'none.txt'"), "moved.py": "import os; os.chdir('..'); open('a.txt')", "a.txt": ""})
    for script in ("train.py", "moved.py"):
        assert "not sent" not in hint_of(himl, script)
    assert "not sent" not in hint_of(himl, "moved.py", "--in_place")


@pytest.mark.parametrize("path", ["./data", "../project/data", "{}/data"])
def test_a_path_for_a_dataset_s_name_is_told_with_what_works(himl: Himl, project: Path, path: str) -> None:
    path = path.format(project)
    write_files(project, {"train.py": "import os; print(os.listdir(os.environ['AZURE_ML_INPUT_images']))", "data/a.txt": ""})
    hint = hint_of(himl, "train.py", "--input", f"images={path}")
    given = hint.partition("--input images=")[2].split(". On a cluster")[0]
    assert himl.ok("submit", "train.py", "--input", f"images={given}").stdout == "['a.txt']\n", hint


def test_a_folder_here_that_is_no_dataset_is_named_as_one_is(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "data/a.txt": ""})
    hint = hint_of(himl, "train.py", "--input", "data")
    assert "--input INPUT_0=data,local=data" in hint
    himl.ok("submit", "train.py", "--input", "INPUT_0=data,local=data")

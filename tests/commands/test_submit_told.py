"""What `himl submit` tells of a job that runs here: its output, how it ended, and what to do when it failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.running import Himl, write_files
from tests.submitted_here import latest

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


def test_a_run_whose_record_is_broken_is_told_as_failed_all_the_same(himl: Himl, project: Path) -> None:
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
def test_what_is_said_after_broken_off_output_stands_on_its_own_line(himl: Himl, project: Path, options: tuple[str, ...]) -> None:
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

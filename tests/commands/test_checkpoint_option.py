"""`himl submit --checkpoint`: a run that starts from a file, or from what an earlier run kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.runs import FROM_RUN
from tests.servers.web import FileServer
from tests.support.folders import contents
from tests.support.running import Himl, write_files

MAKES = """
from pathlib import Path
for name in ("recovery_epoch=3.ckpt", "recovery_epoch=12.ckpt", "best.pt"):
    path = Path("outputs/checkpoints", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
Path("outputs/model.bin").write_text("model")
"""
LOOKS = """
from pathlib import Path
from himl_cli.job import recovery_checkpoint
found = recovery_checkpoint()
print(sorted(path.name for path in Path("outputs/checkpoints").glob("*")), found and found.name, found and found.read_text())
"""


@pytest.fixture
def made(himl: Himl, project: Path) -> str:
    """The id of a run that kept checkpoints."""
    write_files(project, {"make.py": MAKES, "look.py": LOOKS})
    return himl.ok("submit", "make.py", "-q").stdout.strip()


def test_an_empty_one_is_refused(himl: Himl, project: Path) -> None:
    write_files(project, {"look.py": LOOKS})
    outcome = himl("submit", "look.py", "--checkpoint", "")
    assert (outcome.code, "--checkpoint got an empty value." in outcome.stderr) == (2, True), outcome.stderr
    assert not (project / ".himl").exists()


def test_without_it_there_is_nothing(himl: Himl, made: str) -> None:
    assert himl.ok("submit", "look.py").stdout == "[] None None\n"


def test_run_without_last_uses_highest_recovery_checkpoint(himl: Himl, made: str) -> None:
    outcome = himl.ok("submit", "look.py", "--checkpoint", made)
    assert outcome.stdout == "['last.ckpt'] last.ckpt recovery_epoch=12.ckpt\n"
    assert f"Checkpoint outputs/checkpoints/recovery_epoch=12.ckpt of run {made} goes to outputs/checkpoints/last.ckpt." in outcome.stderr


@pytest.mark.parametrize("source", ["{run}:recovery_epoch=3.ckpt", "make:{run}:outputs/checkpoints/recovery_epoch=3.ckpt"])
def test_one_file_of_a_run(himl: Himl, made: str, source: str) -> None:
    assert himl.ok("submit", "look.py", "--checkpoint", source.format(run=made)).stdout == "['last.ckpt'] last.ckpt recovery_epoch=3.ckpt\n"


def test_checkpoint_keeps_file_suffix_and_takes_any_run_path(himl: Himl, made: str) -> None:
    assert himl.ok("submit", "look.py", "--checkpoint", f"{made}:best.pt").stdout == "['last.pt'] last.pt best.pt\n"
    assert himl.ok("submit", "look.py", "--checkpoint", f"{made}:outputs/model.bin").stdout == "['last.bin'] last.bin model\n"


def test_a_recovery_id_means_the_run(himl: Himl, made: str) -> None:
    assert "recovery_epoch=12.ckpt" in himl.ok("submit", "look.py", "--checkpoint", f"make:{made}").stdout


def test_a_folder_of_a_run_comes_whole_with_its_names(himl: Himl, made: str) -> None:
    stdout = himl.ok("submit", "look.py", "--checkpoint", f"{made}:outputs/checkpoints/").stdout
    assert stdout == "['best.pt', 'recovery_epoch=12.ckpt', 'recovery_epoch=3.ckpt'] recovery_epoch=12.ckpt recovery_epoch=12.ckpt\n"


def test_a_file_here_comes_before_a_run_of_that_name(himl: Himl, made: str, project: Path) -> None:
    write_files(project, {made: "a file", "weights.ckpt": "weights"})
    assert himl.ok("submit", "look.py", "--checkpoint", made).stdout.endswith(" a file\n")
    assert himl.ok("submit", "look.py", "--checkpoint", "weights.ckpt").stdout == "['last.ckpt'] last.ckpt weights\n"
    assert (project / "weights.ckpt").read_text() == "weights"


def test_the_first_job_of_a_folder_may_start_from_a_file(himl: Himl, project: Path) -> None:
    write_files(project, {"look.py": LOOKS, "weights.ckpt": "weights"})
    missing = himl("submit", "look.py", "--checkpoint", "early")
    assert (missing.code, "There is no file 'early', and no run yet." in missing.stderr) == (3, True)
    assert himl.ok("submit", "look.py", "--checkpoint", "weights.ckpt").stdout == "['last.ckpt'] last.ckpt weights\n"


def test_each_trial_of_a_sweep_has_it(himl: Himl, made: str) -> None:
    parent = himl.ok("submit", "look.py", "--checkpoint", made, "--sweep", "lr=1,2", "-q").stdout.strip()
    for trial in range(2):
        assert "last.ckpt recovery_epoch=12.ckpt" in himl.ok("runs", "logs", f"{parent}_{trial}").stdout


def test_a_file_that_is_not_there_is_said_with_those_that_are(himl: Himl, made: str) -> None:
    outcome = himl("submit", "look.py", "--checkpoint", f"{made}:final.ckpt")
    assert outcome.code == 3
    assert f"Run '{made}' has no 'final.ckpt'." in outcome.stderr
    assert "outputs/checkpoints/best.pt, outputs/checkpoints/recovery_epoch=12.ckpt" in outcome.stderr
    assert len(himl.ok("runs", "list", "-q").stdout.split()) == 1


@pytest.mark.parametrize(("source", "code", "words"), [
    ("lost/a.ckpt", 3, "There is no file 'lost/a.ckpt'."),
    ("nothing", 3, "No run 'nothing'"),
    ("http://example.org/a.ckpt", 2, "http://example.org/a.ckpt is a plain http address"),
    ("look:nothing:a", 3, "No run 'nothing'"),
])  # fmt: skip
def test_what_is_no_checkpoint_is_refused_and_nothing_runs(himl: Himl, made: str, source: str, code: int, words: str) -> None:
    outcome = himl("submit", "look.py", "--checkpoint", source)
    assert (outcome.code, words in outcome.stderr) == (code, True), outcome.stderr
    assert len(himl.ok("runs", "list", "-q").stdout.split()) == 1


def test_a_run_that_kept_nothing_and_one_in_place_are_refused(himl: Himl, made: str, project: Path) -> None:
    write_files(project, {"idle.py": ""})
    idle = himl.ok("submit", "idle.py", "-q").stdout.strip()
    outcome = himl("submit", "look.py", "--checkpoint", idle)
    assert (outcome.code, "It kept nothing in outputs/." in outcome.stderr) == (3, True)
    refused = himl("submit", "look.py", "--checkpoint", made, "--in_place")
    assert (refused.code, "--checkpoint does not go with --in_place" in refused.stderr) == (2, True)


SECRET = "sv=2024-11-04&X-Amz-Signature=hush1&sig=hush2&password=hush3"


def test_checkpoint_url_is_fetched_once_without_storing_secret(himl: Himl, project: Path, web: FileServer) -> None:
    write_files(project, {"look.py": LOOKS})
    web.put("/models/weights.pt", b"weights")
    address = web("/models/weights.pt")
    first = himl("submit", "look.py", "-v", "--checkpoint", f"{address}?{SECRET}")
    assert first.stdout == "['last.pt'] last.pt weights\n"
    asked = len(web.seen)
    run = himl.ok("submit", "look.py", "-q", "--checkpoint", f"{address}?{SECRET.replace('hush2', 'renewed')}").stdout.strip()
    assert len(web.seen) == asked + 1
    assert himl.ok("runs", "show", run, "--json").json()["tags"][FROM_RUN] == address
    assert f"Began with    {address}\n" in himl.ok("runs", "show", run).stdout
    kept = b"".join(contents(project.parent).values())
    assert b"localhost" in kept
    assert b"hush" not in kept
    assert "hush" not in first.stderr


def test_its_settings_and_its_usage_errors_hide_the_secret_too(himl: Himl, project: Path) -> None:
    write_files(project, {"look.py": LOOKS})
    address = f"https://ada:hush0@example.org/a.ckpt?{SECRET}"
    rows = {row["option"]: row["value"] for row in himl.ok("submit", "look.py", "--checkpoint", address, "--show_settings", "--json").json()}
    assert rows["checkpoint"] == "https://example.org/a.ckpt"
    refused = himl("submit", "look.py", "--checkpoint", address.replace("https", "http"))
    assert (refused.code, "hush" in refused.stderr, "plain http" in refused.stderr) == (2, False, True)


@pytest.mark.parametrize(("status", "code", "words"), [(404, 3, "There is no file at"), (403, 4, "has expired, or does not allow reading")])
def test_an_address_that_gives_no_file_is_said_and_nothing_runs(himl: Himl, project: Path, web: FileServer, status: int, code: int, words: str) -> None:
    write_files(project, {"look.py": LOOKS})
    web.put("/a.ckpt", b"", status=status)
    outcome = himl("submit", "look.py", "--checkpoint", web("/a.ckpt", SECRET))
    assert (outcome.code, words in " ".join(outcome.stderr.split()), "hush" in outcome.stderr) == (code, True, False), outcome.stderr
    assert not (project / ".himl").exists()


def test_the_run_says_what_it_began_with(himl: Himl, made: str, project: Path) -> None:
    write_files(project, {"kept/weights.ckpt": "weights"})
    for source, told in {
        made: f"{made}:outputs/checkpoints/recovery_epoch=12.ckpt",
        f"{made}:outputs/checkpoints/": f"{made}:outputs/checkpoints/",
        "kept/weights.ckpt": "./weights.ckpt",
        "kept": "./kept/",
    }.items():
        run = himl.ok("submit", "look.py", "-q", "--checkpoint", source).stdout.strip()
        assert himl.ok("runs", "show", run, "--json").json()["tags"][FROM_RUN] == told

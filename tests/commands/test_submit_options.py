"""Tests of options of `himl submit` for local jobs, of refusals and messages, and of `--checkpoint`, locally and on
Azure ML.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from himl_cli.core.runs import BROUGHT, FROM_RUN
from tests.azureml_double.log import Seen
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.folders import contents
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns, latest
from tests.support.web import FileServer

LACKS = "import no_such_package"
READS = "from pathlib import Path\nprint(open({}).read())"
LOOKS = """
import os
from pathlib import Path
from himl_cli.job import recovery_checkpoint
folder = Path("outputs/checkpoints").absolute()
os.chdir("/")
found = recovery_checkpoint()
print(sorted(path.name for path in folder.glob("*")), found and found.name, found and found.read_text())
"""
SECRET = "sv=2024-11-04&X-Amz-Signature=hush1&sig=hush2&password=hush3"
KEPT = ("recovery_epoch=3.ckpt", "recovery_epoch=12.ckpt", "best.pt")
WEIGHTS = os.urandom(300_000)
SENT = ("submit", "train.py", "--cluster", "cpu-cluster", "-q")
INPUT = "himl_checkpoint"


def test_bad_input_is_one_line_a_hint_and_nothing_made(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "full/x": "", "lib/net.py": ""})
    for arguments, message, code in [
        (["--input", "nowhere"], "--input nowhere: no dataset or folder 'nowhere'", 3),
        (["--input", "x,local=nowhere"], "'nowhere' does not exist", 3),
        (["--output", "x,local=full,overwrite=false"], "overwrite=false", 2),
        (["--output", "x,local=train.py"], "train.py' is a file", 2),
        (["--output", "a/../../x"], "outside the datastore", 2),
        (["--default_datastore", "nope"], "No datastore 'nope'", 3),
    ]:
        outcome = himl("submit", "train.py", *arguments)
        assert (outcome.code, message in outcome.stderr) == (code, True), outcome.stderr
        assert sorted(path.name for path in project.iterdir()) == ["full", "lib", "train.py"]
    for arguments, message in [
        (["train.py", "--env_var", "=x"], "--env_var needs KEY=VALUE, not an entry without KEY."),
        (["train.py", "--env_var", "PATH"], "--env_var needs KEY=VALUE, not 'PATH'."),
        (["train.py", "--env_var", "FOO"], "--env_var needs KEY=VALUE, not an entry without '='."),
        (["train.py", "--follow", "--no_wait"], "--follow and --no_wait cannot be combined"),
        (["train.py", "--cluster", "gpu"], "A job for a cluster needs an Azure ML workspace, and none is configured."),
        (["train.py", "--", "x${{ outputs.ä-b }}"], "names no"),
    ]:
        outcome = himl("submit", *arguments)
        lines = outcome.stderr.strip().splitlines()
        assert (outcome.code, message in lines[0], len(lines)) == (2, True, 2), outcome.stderr
        assert "--cluster" not in arguments or "Without --cluster, jobs run locally" in lines[1]
        assert sorted(path.name for path in project.iterdir()) == ["full", "lib", "train.py"]


def test_failed_job_is_explained_by_a_hint(himl: Himl, project: Path) -> None:
    write_files(project, {"lacks.py": "import pathlib\npathlib.Path('../job.json').write_text('{')\n" + LACKS})
    outcome = himl("submit", "lacks.py")
    assert outcome.stderr.splitlines()[-1].startswith("error: "), "there is no more to say"
    write_files(project, {"lacks.py": LACKS, "raises.py": "raise ValueError('ModuleNotFoundError: no')"})
    hint = himl("submit", "lacks.py", "--different_seeds", "2", env={"VIRTUAL_ENV": sys.prefix}).stderr.splitlines()[-1]
    assert "; it ran with '" in hint
    assert "use --python for another one; run the missing parts: himl submit --resume" in hint
    assert hint_of(himl, "raises.py").startswith("error: "), "the log, just above, shows the cause"
    perl, python = (
        '#!/usr/bin/env -S perl -w\nprint "@ARGV"\n',
        "#!/usr/bin/python3\nimport sys; print(sys.executable, *sys.argv[1:])",
    )
    write_files(
        project,
        {
            "train.sh": "nothing_like_it 3",
            "perl.sh": perl,
            "python.sh": python,
            "e.sh": "#!/bin/bash -e\nfalse\necho no",
        },
    )
    assert himl.ok("submit", "perl.sh", "--", "a", "b c").stdout == "a b c"
    assert himl.ok("submit", "python.sh", "--python", sys.executable, "--", "b c").stdout == f"{sys.executable} b c\n"
    assert himl("submit", "e.sh").stdout == ""
    assert hint_of(himl, "train.sh").startswith("hint: 'nothing_like_it' is no program on PATH: install it for '")
    script = (
        f"import os, time\nif os.environ['RANK'] == '1':\n    print('boom', flush=True)\n    {LACKS}\ntime.sleep(600)\n"
    )
    write_files(project, {"lacks.py": script})
    outcome = himl("submit", "lacks.py", "--processes_per_node", "2", "--python", sys.executable)
    assert (outcome.code, latest(himl)["exit_code"]) == (1, 1)
    assert "rank 1: exit code 1" in outcome.stderr
    assert "boom" in outcome.stderr
    assert outcome.stderr.splitlines()[-1].endswith(
        f" --file std_log_process_1.txt; it ran with '{sys.executable}', use --python for another one"
    )
    write_files(project, {"train.py": "import os; os.mkdir('outputs')"})
    assert hint_of(himl, "train.py").endswith(
        "hint: himl creates 'outputs' before the job starts: use os.makedirs(..., exist_ok=True)"
    )
    write_files(project, {"träin.py": "import sys; sys.exit(3)"})
    outcome = himl("submit", "träin.py", "--different_seeds", "2")
    assert "The experiment is called 'tr_in'" in outcome.stderr
    assert outcome.stderr.splitlines()[-1] == f"hint: Show the cause: himl runs logs {latest(himl)['id']}_0", (
        "the rest would fail alike"
    )
    write_files(project, {"train.py": "import time; time.sleep(600)"})
    outcome = himl("submit", "train.py", "--max_run_duration", "1s")
    assert outcome.code == 1
    assert "--max_run_duration" in latest(himl)["reason"]


def hint_of(himl: Himl, *words: str, cwd: Path | None = None) -> str:
    outcome = himl("submit", *words, cwd=cwd)
    assert outcome.code != 0, outcome.stderr
    return outcome.stderr.splitlines()[-1]


def test_exit_code_and_output_are_shown_in_each_format(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": "", "data/x.txt": "1"})
    data = ("--input", "a=mnist:3,target=/data,local=data")
    services = (
        "--vscode",
        "--instance_type",
        "x",
        "--job_tier",
        "spot",
        "--ssh_key",
        "gone.pub",
        "--build_context",
        "gone",
    )
    outcome = himl.ok(
        "submit", "train.py", "--in_place", "--ignored_folders", "data", "--distribution", "mpi", *data, *services
    )
    talk = " ".join(outcome.stderr.split())
    assert "has no snapshot: --ignored_folders." in talk
    assert "a single process: --distribution." in talk
    assert ("target=/data" in talk, str(project / "data") in talk) == (True, True)
    passed = "--instance_type, --job_tier, --build_context, --vscode, --ssh_key."
    assert f"Ignored, because the job runs on this machine: {passed}" in talk
    write_files(
        project, {"good.py": "print('{not json')", "bad.py": "import sys; sys.stdout.write('no newline'); sys.exit(42)"}
    )
    assert himl.ok("submit", "good.py", "--json").json()["status"] == "Completed"
    quiet = himl.ok("submit", "good.py", "-q")
    assert (quiet.stdout.strip(), "{not json" in quiet.stderr) == (latest(himl)["id"], True)
    failed = himl("submit", "bad.py")
    assert (failed.code, failed.stdout.strip()) == (1, "no newline")
    assert any(line.startswith("error: ") and "exit code 42" in line for line in failed.stderr.splitlines())
    failed = himl("submit", "bad.py", "--json")
    assert (failed.code, failed.json()["status"], failed.json()["exit_code"]) == (1, "Failed", 42)
    assert any(line.startswith('{"error"') for line in failed.stderr.splitlines())
    assert any(line.startswith("error:") for line in himl("submit", "bad.py", "-q").stderr.splitlines())


def test_file_or_folder_that_is_not_sent_gets_hint_that_works(himl: Himl, project: Path) -> None:
    write_files(
        project, {".gitignore": "data/\n", **dict.fromkeys(["outputs/a.txt", "data/raw/a.txt", "a.env"], "there")}
    )
    for path, name in {
        "Path(__file__).parent / 'outputs' / 'a.txt'": "a.txt",
        "'./data/raw/a.txt'": "a.txt",
        "'a.env'": "a.env",
    }.items():
        write_files(project, {"train.py": READS.format(path)})
        assert (
            f"{name}' is in '{project}', but not in the snapshot: add --in_place to run the job in its folder"
            in hint_of(himl, "train.py")
        )
    assert himl.ok("submit", "train.py", "--in_place").stdout == "there\n"
    write_files(
        project,
        {"train.py": READS.format("'none.txt'"), "moved.py": "import os; os.chdir('..'); open('a.txt')", "a.txt": ""},
    )
    for words in (["train.py"], ["moved.py", "--in_place"]):
        assert hint_of(himl, *words).startswith("error: ")
    write_files(
        project, {"train.py": "import os; print(os.listdir(os.environ['AZURE_ML_INPUT_images']))", "faces/a.txt": ""}
    )
    for path in ("./faces", f"{project}/faces"):
        hint = hint_of(himl, "train.py", "--input", f"images={path}")
        given = hint.partition("--input images=")[2].split(". On a cluster")[0]
        assert himl.ok("submit", "train.py", "--input", f"images={given}").stdout == "['a.txt']\n", hint


def test_hint_names_option_that_works_for_each_place_of_a_file(himl: Himl, project: Path) -> None:
    files = {
        "pyproject.toml": "",
        ".gitignore": "data/*\n!data/kept\n",
        "data/kept/c.txt": "",
        "lone/pyproject.toml": "",
    }
    write_files(project, {**files, **dict.fromkeys(["data/raw/a.txt", "a.env", "x.txt", "jobs/part/b.txt"], "there")})
    swept, lone = ("--sweep", "n=1"), f"is above the snapshot of '{project / 'lone'}': "
    in_place = "add --in_place to run the job in its folder"
    for place, path, options, told in [
        (
            "jobs",
            "'data/raw/a.txt'",
            swept,
            "but not in the snapshot: add --input raw,local=../data/raw,target=data/raw",
        ),
        (
            "jobs",
            "'a.env'",
            (),
            f"but not in the snapshot: {in_place}, or add --input a.env,local=../a.env,target=a.env",
        ),
        (
            "jobs",
            "'part/b.txt'",
            (),
            f"but the job runs in the folder of '{project}': add --input part,local=part,target=part",
        ),
        ("lone", "'../x.txt'", (), f"{lone}{in_place}"),
        ("lone", "'../x.txt'", swept, f"{lone}make it an input of the job, --input {project.name},local=.., and read"),
        ("lone", "Path(__file__).resolve().parents[1] / 'x.txt'", swept, f"{lone}add --snapshot_root .."),
    ]:
        write_files(project, {f"{place}/train.py": READS.format(path)})
        hint = hint_of(himl, "train.py", *options, cwd=project / place)
        assert told in hint
        option = f": {told}".rpartition(": add ")[2] if "in_place" not in told else ""
        if option.startswith("--"):
            himl.ok("submit", "train.py", *options, *option.split(), cwd=project / place)


def test_module_that_is_not_there_or_not_sent_is_explained(himl: Himl, project: Path) -> None:
    for name, code, told in [
        (
            "no.such",
            1,
            "-m takes a module in '{}' or an installed one. For a script, give its path: himl submit PATH.py",
        ),
        ("lab.trian", 2, "hint: Did you mean -m lab.train?"),
        ("lab", 2, "hint: Did you mean -m lab.train?"),
        ("lab.deep.none", 2, "hint: Create '{}/lab/deep/none.py', or correct the name."),
    ]:
        write_files(project, {"lab/__init__.py": "", "lab/train.py": ""})
        outcome = himl("submit", "-m", name)
        assert (outcome.code, told.format(project) in outcome.stderr.replace("\\", "/")) == (code, True), outcome.stderr
        for works in ("lab.train", "pydoc"):
            himl.ok("submit", "-m", works, "--dry_run")
    write_files(project, {"2_app/t.py": "print(__name__)"})
    assert himl.ok("submit", "-m", "2_app.t").stdout == "__main__\n"
    write_files(project, {"jobs/train.py": "from tools import net", "tools/net.py": "", "jobs/pyproject.toml": ""})
    hint = hint_of(himl, "jobs/train.py")
    assert (
        f"hint: 'tools' is in '{project}', outside the snapshot: add --snapshot_root . --env_var PYTHONPATH=." in hint
    )
    himl.ok("submit", "jobs/train.py", "--snapshot_root", ".", "--env_var", "PYTHONPATH=.")
    assert "the snapshot" not in hint_of(himl, "jobs/train.py", "--in_place")
    hint = hint_of(himl, "jobs/train.py", "--snapshot_root", ".")
    assert f"'tools' is in '{project}', which is not on Python's path: add --env_var PYTHONPATH=." in hint
    package = "; if 'tools' is a package, install it for '"
    assert package in hint
    write_files(project, {"src/tools2/net.py": "", "src/tools2/train.py": "from tools2 import net", "src/other.py": ""})
    write_files(project, {"src/run.py": "import other", "scripts/run.py": "import other", "pyproject.toml": ""})
    for target in (["src/tools2/train.py"], ["-m", "src.run"], ["scripts/run.py"]):
        hint = hint_of(himl, *target)
        assert f"is in '{project / 'src'}', which is not on Python's path: add --env_var PYTHONPATH=src;" in hint
        himl.ok("submit", *target, "--env_var", "PYTHONPATH=src")
    (project / "pyproject.toml").unlink()
    write_files(project, {"train.py": "import tools", ".gitignore": "tools\n"})
    assert (
        f"'tools' is in '{project}', but not in the snapshot: add --in_place to run the job in its folder{package}"
        in hint_of(himl, "train.py")
    )
    write_files(project, {"train.py": "import tools.deep", ".gitignore": ""})
    assert (
        f"'tools' in '{project}' has no 'deep': if you mean the installed package 'tools', rename that one"
        in hint_of(himl, "train.py")
    )
    (project / "tools" / "net.py").unlink()
    assert "use --python for another one" in hint_of(himl, "jobs/train.py")
    write_files(project, {"lab/train.py": "", "lab/pyproject.toml": ""})
    outcome = himl("submit", "-m", "lab.train", cwd=project / "lab")
    assert f"'lab' is in '{project}', outside the snapshot: add --snapshot_root .." in outcome.stderr
    himl.ok("submit", "-m", "lab.train", "--snapshot_root", "..", cwd=project / "lab")
    show = ("--cluster", "gpu", "--docker_image", "me/train", "--dry_run")
    assert (
        f"Module 'no.such' is not in '{project}', so the job's environment must provide it."
        in himl.ok("submit", "-m", "no.such", *show).stderr
    )
    assert "Module" not in himl.ok("submit", "-m", "lab.train", *show).stderr


@pytest.mark.large("runs several jobs")
def test_checkpoint_url_is_fetched_once_without_storing_secret(himl: Himl, project: Path, web: FileServer) -> None:
    write_files(project, {"look.py": LOOKS})
    web.put("/models/weights.pt", b"weights")
    missing = himl("submit", "look.py", "--checkpoint", web("/nothing.pt", SECRET))
    assert (missing.code, "No file at" in missing.stderr, "hush" in missing.stderr) == (3, True, False), missing.stderr
    assert not (project / ".himl").exists()
    address = web("/models/weights.pt")
    first = himl("submit", "look.py", "-v", "--checkpoint", f"{address}?{SECRET}")
    assert first.stdout == "['last.pt'] last.pt weights\n"
    asked = len(web.seen)
    run = himl.ok(
        "submit", "look.py", "-q", "--checkpoint", f"{address}?{SECRET.replace('hush2', 'renewed')}"
    ).stdout.strip()
    assert len(web.seen) == asked + 1
    assert himl.ok("runs", "show", run, "--json").json()["tags"][FROM_RUN] == address
    assert f"Started from  {address}\n" in himl.ok("runs", "show", run).stdout
    kept = b"".join(contents(project.parent).values())
    assert b"localhost" in kept
    assert b"hush" not in kept
    assert "hush" not in first.stderr


def test_without_the_option_a_job_has_no_checkpoint(himl: Himl, project: Path) -> None:
    write_files(project, {"look.py": LOOKS, "weights.ckpt": "weights"})
    for source, code, words in (
        ("", 2, "--checkpoint got an empty value."),
        ("early", 3, "File 'early' does not exist, and there are no runs yet."),
    ):
        outcome = himl("submit", "look.py", "--checkpoint", source)
        assert (outcome.code, words in outcome.stderr, (project / ".himl").exists()) == (code, True, False), (
            outcome.stderr
        )
    assert himl.ok("submit", "look.py", "--checkpoint", "weights.ckpt").stdout == "['last.ckpt'] last.ckpt weights\n"
    assert himl.ok("submit", "look.py").stdout == "[] None None\n"


def test_job_starts_from_checkpoint_and_says_so(himl: Himl, project: Path) -> None:
    write_files(project, {"look.py": LOOKS})
    runs = RecordedRuns(project)
    idle = runs.add("idle_1_aa", experiment="idle")
    checkpoints = {f"outputs/checkpoints/{name}": name for name in KEPT}
    made = runs.add("make_2_bb", experiment="make", files={**checkpoints, "outputs/model.bin": "model"})
    for source, code, words in [
        ("nothing", 3, "No run 'nothing'"),
        ("http://example.org/a.ckpt", 2, "http://example.org/a.ckpt is a plain http address"),
        (f"{made}:final.ckpt", 3, "outputs/checkpoints/best.pt, outputs/checkpoints/recovery_epoch=12.ckpt"),
        (idle, 3, "It has no files in outputs/."),
        (f"{made} --in_place", 2, "--checkpoint cannot be used with --in_place"),
    ]:
        outcome = himl("submit", "look.py", "--checkpoint", *source.split())
        assert (outcome.code, words in outcome.stderr) == (code, True), outcome.stderr
        assert sorted(himl.ok("runs", "list", "-q").stdout.split()) == [idle, made]
    write_files(project, {"kept/weights.ckpt": "weights", "latest": "a file"})
    highest = f"{made}:outputs/checkpoints/recovery_epoch=12.ckpt"
    names = (
        "['best.pt', 'recovery_epoch=12.ckpt', 'recovery_epoch=3.ckpt'] recovery_epoch=12.ckpt recovery_epoch=12.ckpt"
    )
    for source, printed, told in (
        (made, "['last.ckpt'] last.ckpt recovery_epoch=12.ckpt", highest),
        (f"{made}:outputs/model.bin", "['last.bin'] last.bin model", f"{made}:outputs/model.bin"),
        (f"{made}:outputs/checkpoints/", names, f"{made}:outputs/checkpoints/"),
        ("kept", "['weights.ckpt'] None None", "./kept/"),
        ("latest", "['last.ckpt'] last.ckpt a file", "./latest"),
    ):
        outcome = himl.ok("submit", "look.py", "--checkpoint", source)
        assert outcome.stdout == f"{printed}\n"
        assert himl.ok("runs", "show", "--json").json()["tags"][FROM_RUN] == told
        goes = (
            f"The job starts with checkpoint outputs/checkpoints/recovery_epoch=12.ckpt of run {made} in "
            "outputs/checkpoints/last.ckpt."
        )
        assert (goes in outcome.stderr) is (source == made)


@pytest.mark.large("takes long, and other tests run its branches")
def test_checkpoint_that_a_job_began_with_is_not_its_result(himl: Himl, project: Path) -> None:
    script = (
        "import pathlib, sys\nfor name in sys.argv[1:]:\n"
        "    pathlib.Path('outputs/checkpoints', name).write_text('w' * 7)\n"
    )
    write_files(project, {"write.py": script, "kept/epoch=9.ckpt": "k" * 7, "kept/last.ckpt": "l" * 7})
    himl.ok("submit", "write.py", "--checkpoint", "kept", "--", "epoch=4.ckpt", "epoch=0.ckpt")
    outcome = himl.ok("checkpoint", "fetch", "latest")
    assert Path(outcome.stdout.strip()).name == "epoch=4.ckpt"
    assert (
        "began with epoch=9.ckpt, last.ckpt, and did not change it. Using the one of the highest epoch."
        in outcome.stderr
    )
    first = himl.ok("runs", "show", "--json").json()["id"]
    himl.ok("submit", "write.py", "--checkpoint", first)
    assert himl.ok("runs", "show", "--json").json()["tags"][FROM_RUN] == f"{first}:outputs/checkpoints/epoch=4.ckpt"


@pytest.fixture
def early(azure_environment: StagedWorkspace, project: Path) -> str:
    azure_environment.write_config(project)
    write_files(project, {"train.py": "", "environment.yml": "dependencies:\n- python=3.11\n"})
    run = azure_environment.add_run("early", experiment="train")
    azure_environment.put_artifacts(
        run, {"outputs/checkpoints/last.ckpt": WEIGHTS, "outputs/checkpoints/parts/a.bin": b"a"}
    )
    return "early"


def moved(stage: Stage) -> list[Seen]:
    return stage.log.find(
        r"^(GET|PUT) \S+\.blob\.core\S*(last\.ckpt|a\.bin|himl_checkpoints)", lambda seen: "comp=list" not in seen.query
    )


def submitted(azure: StagedWorkspace, run_id: str) -> tuple[str, str]:
    job = azure.state.runs[run_id].job
    assert job is not None
    return job["inputs"][INPUT]["uri"], job["command"]


def test_checkpoint_in_the_workspace_is_read_where_it_lies(
    himl: Himl, azure: StagedWorkspace, stage: Stage, early: str
) -> None:
    link = himl.ok("checkpoint", "url", early, "-q").stdout.strip()
    address, _, query = link.partition("?")
    stage.log.clear()
    signature = next(part for part in query.split("&") if part.startswith("sig=")).removeprefix("sig=")
    for source, tag, brings in (
        (link, address, "/last.ckpt outputs/checkpoints"),
        ("early", "early:outputs/checkpoints/last.ckpt", "outputs/checkpoints/last.ckpt"),
        ("early:outputs/checkpoints/", "early:outputs/checkpoints/", "find . -type f"),
    ):
        outcome = himl.ok(*SENT, "-v", "--checkpoint", source)
        run = azure.state.runs[outcome.stdout.strip()]
        uri, command = submitted(azure, run.run_id)
        assert uri.rstrip("/").endswith(
            f"ExperimentRun/{azure.state.runs[early].data_container_id}/outputs/checkpoints"
        )
        assert brings in command.replace("'", "")
        assert run.tags[FROM_RUN] == tag
        assert (BROUGHT in run.tags) == (source != link)
        assert signature not in f"{run.job} {run.tags} {outcome.stderr}"
    assert moved(stage) == []
    gone = himl(*SENT, "--checkpoint", link.replace("last.ckpt", "lost.ckpt"))
    assert (gone.code, "/lost.ckpt' in datastore" in gone.stderr) == (3, True), gone.stderr
    other = stage.workspace("elsewhere").state.storage
    other.make_container("models")
    other.put("models", "weights.pt", WEIGHTS)
    for _ in range(2):
        run_id = himl.ok(*SENT, "--checkpoint", other.blob_link("models", "weights.pt")).stdout.strip()
    uri, command = submitted(azure, run_id)
    assert "workspaceblobstore/paths/himl_checkpoints/" in uri
    assert "outputs/checkpoints/last.pt" in command
    assert len(stage.log.find(r"^PUT .*himl_checkpoints", lambda seen: "comp=list" not in seen.query)) == 1
    assert [
        azure.get_blob("workspaceblobstore", name)
        for name in azure.blob_names("workspaceblobstore", "himl_checkpoints/")
    ] == [WEIGHTS]


def test_workspace_that_is_not_the_project_s_own_is_said(himl: Himl, project: Path) -> None:
    write_files(project, {"ws/pyproject.toml": "", "ws/train.py": ""})
    himl.ok("init", "--local", cwd=project / "ws")
    assert "For the script's project: --workspace ws/.himl" in himl.ok("submit", "ws/train.py").stderr
    assert "script's project" not in himl.ok("submit", "ws/train.py", "--workspace", "ws/.himl").stderr

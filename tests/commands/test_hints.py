"""Mistakes that people make who come from elsewhere: the hint's command, when it is typed, does what was meant."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, Outcome, write_files
from tests.support.runs import RecordedRuns

SCRIPT = "import sys\nprint('args', *sys.argv[1:])\n"
OF_SUBMIT = {
    "submit --model=Hello": "himl submit train.py -- --model=Hello",
    "submit --lr 3 --cluster local": "himl submit train.py --cluster local -- --lr 3",
    "submit train.py --lr 3 -- --rest": "himl submit train.py -- --lr 3 --rest",
    "submit python train.py": "himl submit train.py",
    "submit python3.11 -u train.py --lr 3": "himl submit train.py -- --lr 3",
    "submit /usr/bin/python train.py 3": "himl submit train.py -- 3",
    "submit python -m lab.train --lr 3": "himl submit -m lab.train -- --lr 3",
    "submit python": "himl submit train.py",
    "submit bash train.sh 3": "himl submit train.sh -- 3",
    "submit 'python train.py --lr 3' --tag a=b": "himl submit train.py --tag a=b -- --lr 3",
    "submit 'train.py --lr 3'": "himl submit train.py -- --lr 3",
    "submit -- python train.py --lr 3": "himl submit train.py -- --lr 3",
    "submit --tag a=b -- train.py --lr 3": "himl submit train.py --tag a=b -- --lr 3",
    "submit -m train.py": "himl submit train.py",
    "submit -m lab/train.py": "himl submit lab/train.py",
    "submit -m lab/train -- --lr 3": "himl submit -m lab.train -- --lr 3",
    "submit -m lab.train.py": "himl submit -m lab.train",
    "submit - --tag a=b": "himl submit train.py --tag a=b",
    "submit train.py --strictly_aml_v1 --lr 3": "himl submit train.py --sdk v1 -- --lr 3",
    "submit train.py --azure_datasets=faces,hands": "himl submit train.py --input faces --input hands",
    "submit train.py --azure_datasets faces --mount_in_azureml": "himl submit train.py --input faces,mode=mount",
    "submit train.py --input faces --mount_in_azureml=True --lr 3": "himl submit train.py --input faces,mode=mount -- --lr 3",
    "submit torchrun --standalone --nproc-per-node=1 train.py --lr 3": "himl submit train.py --processes_per_node 1 -- --lr 3",
    "submit python -m torch.distributed.run --nproc_per_node 1 train.py": "himl submit train.py --processes_per_node 1",
    "submit train.py -f x": "himl submit train.py -- -f x",
    "submit train.py --tag team blue": "himl submit train.py --tag team=blue",
    "run train.py --lr 3": "himl submit train.py -- --lr 3",
    "runner --model=Hello": "himl submit train.py -- --model=Hello",
    "run": "himl submit train.py",
    "python train.py --lr 3": "himl submit train.py -- --lr 3",
    "train.py --lr 3": "himl submit train.py -- --lr 3",
}
OF_OTHERS = {
    "run list -q": "himl runs list -q",
    "-q runs list": "himl runs list -q",
    "--workspace local -q runs list": "himl runs list --workspace local -q",
    "runs list -q train": "himl runs list -q --experiment train",
    "runs list --status Failed Completed -q": "himl runs list --status Failed --status Completed -q",
    "runs list --tags=a=b c=d": "himl runs list --tags=a=b --tags c=d",
    "runs list -n 5 -q": "himl runs list --num_runs 5 -q",
    "runs list --limit=5 -q": "himl runs list --num_runs 5 -q",
    "runs list 5 -q": "himl runs list --num_runs 5 -q",
    "runs list --all": "himl runs list --num_runs all",
    "runs show --latest -q": "himl runs show --run latest -q",
    "runs logs train_1_aa -f": "himl runs logs train_1_aa --follow",
    "download train_1_aa -o out": "himl download train_1_aa --output_dir out",
    "download train_1_aa --output out": "himl download train_1_aa --output_dir out",
    "download latest results": "himl download latest --output_dir results",
    "download results": "himl download latest --output_dir results",
    "download outputs": "himl download latest --prefix outputs",
}


@pytest.fixture
def code(project: Path) -> RecordedRuns:
    """A project with scripts, two datasets and a run."""
    write_files(project, {"train.py": SCRIPT, "lab/train.py": SCRIPT, "lab/__init__.py": "", "train.sh": "echo args $*\n", "other.py": ""})
    runs = RecordedRuns(project)
    runs.add("train_1_aa", tags={"a": "b", "c": "d"}, files={"outputs/model.txt": "weights", "user_logs/std_log.txt": "hello\n"})
    write_files(project, {f".himl/datastores/local/{name}/1.txt": "smile" for name in ("faces", "hands")})
    return runs


def hint_of(outcome: Outcome) -> str:
    """The second and last line on stderr."""
    (error, hint) = outcome.stderr.splitlines()
    assert error.startswith("error: ")
    return hint.removeprefix("hint: ")


def typed(himl: Himl, command: str) -> Outcome:
    """What comes of *command* as a whole line; it must succeed."""
    program, *arguments = shlex.split(command)
    assert program == "himl"
    return himl.ok(*arguments)


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(("mistake", "meant"), OF_SUBMIT.items(), ids=OF_SUBMIT)
def test_a_script_is_run_by_the_command_of_the_hint(himl: Himl, mistake: str, meant: str) -> None:
    outcome = himl(*shlex.split(mistake))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert hint_of(outcome).endswith(f": {meant}")
    assert himl.ok("runs", "list", "-q").stdout == "train_1_aa\n", "nothing has run so far"
    arguments = shlex.split(meant)
    assert typed(himl, meant).stdout.split() == ["args", *(arguments[arguments.index("--") + 1 :] if "--" in arguments else [])]


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(("mistake", "meant"), OF_OTHERS.items(), ids=OF_OTHERS)
def test_the_command_of_the_hint_works(himl: Himl, mistake: str, meant: str) -> None:
    outcome = himl(*shlex.split(mistake))
    assert (outcome.code, outcome.stdout) == (2 if " -" in f" {mistake}" or "list" in mistake else 3, "")
    assert meant in hint_of(outcome)
    assert typed(himl, meant).stdout != ""


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("mistake", "ends", "said"),
    [
        ("submit lab", 2, "himl submit lab/train.py"),
        ("submit .himl", 2, "There is no .py or .sh script in it."),
        ("submit nb.ipynb", 2, "jupyter nbconvert --to script nb.ipynb"),
        ("runs show last", 3, "Did you mean latest?"),
        ("runs download x", 2, "Did you mean 'himl download'?"),
        ("runs stop x", 2, "Did you mean 'cancel'?"),
        ("stop x", 2, "Did you mean 'himl runs cancel'?"),
        ("Submit train.py", 2, "Did you mean 'submit'?"),
        ("tensorboard", 2, "Did you mean 'tb'?"),
        ("runs cancel --all", 2, "See 'himl runs cancel --help'."),
    ],
)
def test_a_hint_names_what_there_is(himl: Himl, project: Path, mistake: str, ends: int, said: str) -> None:
    write_files(project, {"nb.ipynb": "{}"})
    outcome = himl(*mistake.split())
    assert outcome.code == ends
    assert said in outcome.stderr


@pytest.mark.parametrize(
    ("mistake", "meant"),
    {
        "submit train.py --azureml --cluster cpu-cluster --lr 3": "himl submit train.py --cluster cpu-cluster -- --lr 3",
        "submit train.py --azureml": "himl submit train.py --cluster NAME",
        "submit train.py --log_from_vm": "himl submit train.py --record_in azure",
    }.items(),
)
def test_a_script_is_sent_by_the_command_of_the_hint(himl: Himl, azure_environment: StagedWorkspace, project: Path, mistake: str, meant: str) -> None:
    azure_environment.add_compute("cpu-cluster")
    azure_environment.write_config(project)
    write_files(project, {"train.py": SCRIPT, "environment.yml": "dependencies: [python=3.11]\n"})
    assert hint_of(himl(*shlex.split(mistake))).endswith(f"The same here: {meant}")
    typed(himl, meant.replace("NAME", "cpu-cluster"))
    assert len(azure_environment.state.runs) == 1


@pytest.mark.usefixtures("code")
def test_a_cluster_in_the_settings_needs_no_word(himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\ncluster = 'gpu'\n"})
    assert hint_of(himl("submit", "train.py", "--azureml")).endswith(": himl submit train.py")


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("submit train.py --wait_for_completion=True", "args\n"),
        ("submit train.py --in-place=false --wait=true", "args\n"),
        ("submit train.py --compute_cluster_name local", "args\n"),
        ("runs list --run_id x", ""),
        ("runs show --run_id=train_1_aa -q", "train_1_aa\n"),
        ("runs show --experiment train --tags a=b c=d -q", "train_1_aa\n"),
        ("runs show --experiment train -q --tags a=b,c=d", "train_1_aa\n"),
        ("runs list --quiet=True", "train_1_aa\n"),
    ],
)
def test_old_forms_are_taken(himl: Himl, words: str, said: str) -> None:
    outcome = himl(*words.split())
    assert (outcome.stdout, outcome.code) == (said, 0 if said else 2), outcome.stderr


@pytest.mark.usefixtures("code")
def test_hi_mls_number_of_folds_is_taken(himl: Himl) -> None:
    himl.ok("submit", "train.py", "--crossval_count=2", "-q")
    assert himl.ok("runs", "show", "--children", "-q").stdout.count("\n") == 2


@pytest.mark.usefixtures("code")
def test_blank_separated_tags_all_count(himl: Himl) -> None:
    outcome = himl("tb", "--experiment", "train", "--tags", "a=b", "c=other", "--sync_only")
    assert (outcome.code, "c=other" in outcome.stderr) == (3, True)
    assert "'train_1_aa' has no event files" in himl("tb", "--experiment", "train", "--tags", "a=b", "c=d", "--sync_only").stderr


@pytest.mark.usefixtures("code")
def test_a_switch_takes_yes_and_no_alone(himl: Himl) -> None:
    outcome = himl("submit", "train.py", "--wait_for_completion=maybe")
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (2, "error: --wait_for_completion takes no value, got 'maybe'.")
    assert himl.ok("submit", "train.py", "--wait=False").stdout.startswith("train_")
    assert himl.ok("runs", "logs", "--follow").stdout == "args\n"
    assert himl.ok("submit", "train.py", "--", "--json=true").stdout == "args --json=true\n"


def test_a_hint_repeats_no_secret(himl: Himl) -> None:
    for words in ("--env_var API_KEY=hunter22hunter22 submit train.py", "submit python train.py --password hunter22hunter22"):
        outcome = himl(*words.split())
        assert (outcome.code, "himl submit train.py" in outcome.stderr, "hunter22" in outcome.stderr) == (2, True, False)


@pytest.mark.parametrize(
    ("words", "same"),
    [("help", "--help"), ("help submit", "submit --help"), ("help runs list", "runs list --help"), ("runs help", "runs --help"), ("version", "--version")],
)
def test_help_and_version_may_be_words(himl: Himl, words: str, same: str) -> None:
    assert himl.ok(*words.split()).stdout == himl.ok(*same.split()).stdout


@pytest.mark.usefixtures("code")
def test_himl_option_after_dashes_is_noted_if_script_lacks_it(himl: Himl, project: Path) -> None:
    outcome = himl.ok("submit", "train.py", "--tag", "a=b", "--", "--lr", "3", "--env-var", "A=1", "--display_name=x")
    assert outcome.stdout == "args --lr 3 --env-var A=1 --display_name=x\n"
    told = outcome.stderr.splitlines()[0]
    assert told.startswith("--env_var stands behind --, so the script gets it. To give it to himl: ")
    assert typed(himl, told.partition("himl: ")[2]).stdout == "args --lr 3\n"
    write_files(project, {"train.py": f"{SCRIPT}# takes --env-var and --display_name\n"})
    assert "stands behind" not in himl.ok("submit", "train.py", "--", "--env_var", "A=1", "--display_name=x", "-v").stderr


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("mistake", ["-v runs list", "runs list --bogus -v", "submit -v train.py --lr 3", "runs list -v --json --quiet", "-v"])
def test_a_wrong_option_has_no_traceback(himl: Himl, mistake: str) -> None:
    outcome = himl(*mistake.split())
    assert (outcome.code, "Traceback" in outcome.stderr) == (2, False)

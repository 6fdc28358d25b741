"""Tests of the options that a script defines, as evidence of how it takes the values of a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.sweeps import search_range
from himl_cli.workspaces.azure.jobs.body import search_space
from himl_cli.workspaces.azure.jobs.command_line import script_line
from tests.support.running import write_files

SCRIPT = """
import argparse, click, typer
def main(half: bool = False, name: str = ""): ...
def other(deep: bool = typer.Option(False, "--deep")): ...
@click.option("--shout/--no-shout")
@click.option("--loud/--quiet")
@click.option("--once", is_flag=True)
@click.option("--pair", nargs=2)
def run(): ...
p = argparse.ArgumentParser()
p.add_argument("-a", "--amp", action="store_true", default=False)
p.add_argument("--off", action="store_false")
p.add_argument("--ema", action=argparse.BooleanOptionalAction)
p.add_argument("--sizes", nargs="*", type=int)
p.add_argument("--text", nargs="?")
p.add_argument("--flag", type=bool)
p.add_argument("--unclear", **{"action": "store_true"})
one.add_argument("--both", action="store_true")
two.add_argument("--both", type=int)
"""
GETS, ONE_WORD = "the script gets", "as one word"


@pytest.mark.parametrize(("sweep", "form", "remark"), [
    ("amp=true,false", "switch", "amp: --amp of 'train.py' takes no value. himl passes --amp or nothing."),
    ("amp=1,0", "switch", "himl passes --amp or nothing."),
    ("amp=1,2", "", ""),
    ("ema=Yes,no", "negatable", "himl passes --ema or --no-ema."),
    ("shout=true,false", "negatable", "himl passes --shout or --no-shout."),
    ("half=true,false", "negatable", "himl passes --half or --no-half."),
    ("once=on,off", "switch", "himl passes --once or nothing."),
    ("sizes=64 32,128", "words", "sizes: --sizes of 'train.py' takes several words, so himl splits '64 32'."),
    ("sizes=64,128", "", ""),
    ('pair="1 2"', "words", "himl splits '1 2'."),
    ("text=a b,c", "", ""),
    ("flag=true,false", "", ""),
    ("off=true,false", "", f"off: {GETS} --off true. For a switch: --sweep 'off=switch()'"),
    ("loud=true,false", "", "--sweep 'loud=switch()'"),
    ("deep=true,false", "", "--sweep 'deep=switch()'"),
    ("unclear=true,false", "", "--sweep 'unclear=switch()'"),
    ("both=true,false", "", "--sweep 'both=switch()'"),
    ("new=a b,\"c, d\"", "", f"new: {GETS} 'a b' {ONE_WORD}. For several words: --sweep 'new=words(a b,\"c, d\")'"),
    ("new=switch()", "switch", ""),
    ("new=words(1 2)", "words", ""),
])  # fmt: skip
def test_script_shows_how_it_takes_values(tmp_path: Path, sweep: str, form: str, remark: str) -> None:
    write_files(tmp_path, {"train.py": SCRIPT})
    job = prepare_job(SubmitRequest(cwd=tmp_path, target="train.py", sweep=(sweep,)))
    assert job.spec.sweep is not None
    name = sweep.partition("=")[0]
    found = [text for text in job.remarks if text.startswith(f"{name}: ")]
    assert (job.spec.sweep.space[name].form, len(found), remark in "".join(found)) == (form, int(bool(remark)), True), (
        found
    )


def test_placeholders_shell_scripts_and_clusters(tmp_path: Path) -> None:
    write_files(tmp_path, {"train.py": SCRIPT, "train.sh": "", "odd.py": "def"})
    odd = [f"amp: {GETS} --amp true. For a switch: --sweep 'amp=switch()'"]
    for target, arguments, remarks in [
        ("train.py", ["amp=${{search_space.amp}}"], []),
        ("train.sh", [], []),
        ("odd.py", [], odd),
    ]:
        job = prepare_job(SubmitRequest(cwd=tmp_path, target=target, arguments=arguments, sweep=("amp=true,false",)))
        assert job.spec.sweep is not None
        assert (job.spec.sweep.space["amp"].form, [text for text in job.remarks if "amp: " in text]) == ("", remarks)
    with pytest.raises(BadUsage, match="needs a script, but the job is a command line"):
        prepare_job(SubmitRequest(cwd=tmp_path, command="python train.py", sweep=("amp=switch()",)))
    options = ("amp=true,false", "ema=false", "sizes=1 2,3")
    job = prepare_job(SubmitRequest(cwd=tmp_path, target="train.py", cluster="gpu", docker_image="x", sweep=options))
    ways = {
        "amp": "true) printf '%s ' --amp;;",
        "ema": "false) printf '%s ' --no-ema;;",
        "sizes": "'1 2') printf '%s ' 1 2;; 3) printf '%s ' 3;;",
    }
    amp, ema, sizes = (f'$(case "$AZUREML_SWEEP_{name}" in {way} esac)' for name, way in ways.items())
    assert search_space(search_range("x", '1e5,0.1,"3.10"')) == ["choice", [["1e5", "0.1", "3.10"]]]
    assert search_space(search_range("x", '0.2,0.1,"3.10"')) == ["choice", [[0.2, 0.1, "3.10"]]]
    assert script_line(job.spec) == f"python train.py {amp} {ema} --sizes {sizes}"

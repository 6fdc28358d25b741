"""Parsers of what people type: options, settings in variables, ids, addresses, patterns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from hypothesis import strategies as st

from himl_cli.commands import options
from himl_cli.commands.scripts import check_variables
from himl_cli.core import redaction
from himl_cli.core import redaction as addresses
from himl_cli.core.errors import BadUsage
from himl_cli.core.workspaces import parse_workspace_id
from himl_cli.services.checkpoints import names as checkpoint_names
from himl_cli.services.checkpoints.names import parse_name
from himl_cli.services.montage.query import Pattern
from himl_cli.services.runs.lookup import is_studio_url, parse_reference, split_recovery_id, workspace_in_url
from himl_cli.services.submission.data import parse_data
from himl_cli.services.submission.environment import parse_pip_line
from himl_cli.services.submission.request import SubmitRequest, check_size, parse_duration
from himl_cli.services.submission.snapshot import parse_rules, verdict
from himl_cli.services.submission.sweeps import parse_call, parse_early_stop, parse_sampling, parse_space, requested_sweep, sweep_remarks, sweep_text
from himl_cli.services.transfer.local_files import UnsafeName, folded, part_name, safe_relative
from himl_cli.services.transfer.plan import Filters
from himl_cli.workspaces.azure.storage.datastores import parse_data_uri
from stress.fuzz.strategies import contents, texts
from stress.fuzz.target import Target
from stress.fuzz.workspace import ADDRESS

SUB = "/subscriptions/0f0f0f0f-0000-4000-8000-000000000000/resourceGroups/group/providers/Microsoft.MachineLearningServices/workspaces/ws"
STUDIO = f"https://ml.azure.com/runs/train_1700000000_0badcafe?wsid={SUB}&tid=0f0f0f0f-0000-4000-8000-000000000001"
RUNS = ("train_1700000000_0badcafe", "exp:train_1700000000_0badcafe", "HD_0f0f0f0f-0000-4000-8000-000000000000_3", "latest", STUDIO)
SIGNED = "https://host.blob.core.windows.net/c/folder/epoch%3D3.ckpt?sv=2021&sr=b&sig=abc%2F%3D&se=2026-11-20T10%3A40%3A57Z#part"
SPACES = (
    "lr=0.1,0.01",
    '--depth=choice(1, 2, "a,b")',
    "x=uniform(0,1)",
    "y=loguniform(-6, -1)",
    "n=randint(10)",
    "q=quniform(0, 10, 2)",
    "m=qlognormal(0,1,1)",
)
STOPS = (
    "bandit(slack_factor=0.1, evaluation_interval=1, delay_evaluation=5)",
    "median(delay_evaluation=2)",
    "truncation(truncation_percentage=20)",
    "bandit(slack_amount=1)",
)
CHECKPOINTS: tuple[str, ...] = (
    "outputs/checkpoints/last.ckpt",
    "outputs/checkpoints/recovery_epoch=9-step=90-v1.ckpt",
    "epoch=3-val/loss=0.12-v1.ckpt",
    "best_val_loss.ckpt",
)
CHECKPOINTS += ("outputs/retry_001/checkpoints/autosave.ckpt", "best-val_loss=-1.5e-3,step=17.pt", "model-epoch-00012")
GLOBS = ("*.ckpt", "checkpoints/**", "/a/[a-c]?/**/x", "**/*.tfevents*", "[!x]y[]z]", "{a,b}", "a**b**c*d")
IGNORED = ("*.pyc\n__pycache__/\n!keep.pyc\n/build\n# comment\nfoo/**/bar\n\\#x\ntrailing\\ \n[a-c]*.txt\n**/x\n", "*\n!*.py\n!a/\n")
NAMES = ("a/b.txt", "outputs/checkpoints/last.ckpt", "C:\\x", "../x", "a//b", "aux.txt", ".himl-transfer.db", "naïve/é.txt", "a/./b", "x.himl-part")
PIP = (
    "numpy==1.26.0",
    "torch[extra] >=2,<3 ; python_version < '3.11'",
    "--extra-index-url https://user:pw@host/simple",
    "-e git+https://h/r.git#egg=x",
    "a @ https://h/a.whl",
)
MASKED = ("--env_var TOKEN=abc", "curl -H 'Authorization: Bearer xyz' https://u:p@h/x?sig=abc", "-e A_KEY='se cret'", 'python x.py --password "a b" --n 3')
CALLS: Sequence[tuple[str, Callable[[str], object], Sequence[str], tuple[type[Exception], ...]]] = (
    ("reference", parse_reference, RUNS, (BadUsage,)),
    ("recovery_id", split_recovery_id, RUNS, (BadUsage,)),
    ("studio_url", lambda text: (workspace_in_url(text), is_studio_url(text)), (STUDIO, SUB), ()),
    ("workspace_id", parse_workspace_id, (SUB, STUDIO), ()),
    ("call", parse_call, (*STOPS, "uniform(0, 1)", 'choice("a,b", c)'), ()),
    ("space", lambda text: parse_space([text]), SPACES, (BadUsage,)),
    ("early_stop", parse_early_stop, STOPS, (BadUsage,)),
    ("sampling", parse_sampling, ("random(seed=5)", "grid", "bayesian", "random"), (BadUsage,)),
    ("input", lambda text: parse_data("input", [text]), ("INPUT=data:3,mode=mount,local=/x", "data:latest", "K=azureml:a:1,target=t,datastore=d"), (BadUsage,)),
    ("output", lambda text: parse_data("output", [text]), ("OUT=data,mode=upload,overwrite=false", "data,local=/x"), (BadUsage,)),
    ("duration", parse_duration, ("30s", "1.5d", "2h", "10m"), (BadUsage,)),
    ("size", lambda text: check_size("--shm_size", text), ("512m", "100g", "007k"), (BadUsage,)),
    ("pip_line", lambda text: parse_pip_line(text, "'requirements.txt', line 3"), PIP, (BadUsage,)),
    ("pattern", lambda text: Pattern(text).matches("a/b/slide_1.tiff"), ("**/*.tiff", "a/**/b*[0-9]?.svs", "./x/**"), (BadUsage,)),
    ("checkpoint_rank", checkpoint_names.rank_of, CHECKPOINTS, ()),
    ("checkpoint_name", parse_name, CHECKPOINTS, ()),
    (
        "storage_uri",
        lambda text: parse_data_uri(text, ADDRESS),
        ("azureml://datastores/d/paths/a/b", f"azureml:/{SUB}/datastores/d/paths/x", SIGNED),
        (BadUsage,),
    ),
    ("redaction", lambda text: redaction.mask_line(redaction.redact(text)), MASKED, ()),
)


def _address(text: str) -> None:
    for read in (addresses.is_address, addresses.is_botched_address, addresses.shown, addresses.identity, addresses.last_name):
        read(text)
    addresses.safe_name(addresses.last_name(text)).encode()


def _sweep(given: tuple[list[str], str, str, str, int, bool]) -> None:
    space, sampling, stop, metric, trials, on_cluster = given
    cluster = "gpu" if on_cluster else None
    options: dict[str, Any] = {"sampling": sampling or None, "max_trials": trials, "primary_metric": metric, "early_stop": stop or None}
    spec = requested_sweep(SubmitRequest(cwd=Path(), cluster=cluster, sweep=space, **options))
    if spec is not None:
        sweep_text(spec)
        sweep_remarks(spec, ["--lr", "3"])


def _sweeps() -> st.SearchStrategy[Any]:
    words = st.sampled_from(["val/loss", "", " ", "\ud800"])
    return st.tuples(
        st.lists(texts(SPACES), min_size=1, max_size=3),
        texts(("random", "grid", "bayesian", "")),
        st.just("") | texts(STOPS),
        words,
        st.sampled_from([1, 0, 5, -1, 2**70]),
        st.booleans(),
    )


def _admit(given: tuple[str, str, str]) -> None:
    Filters(include=(given[0],), exclude=(given[1],)).admit(given[2])


def _ignore(given: tuple[bytes, str]) -> None:
    rules = parse_rules(given[0])
    for is_folder in (False, True):
        verdict(rules, given[1], is_folder=is_folder)


def _safe_name(name: str) -> None:
    for windows in (False, True):
        parts = safe_relative(name, windows=windows)
        assert not any(part in ("", ".", "..") for part in parts), parts
        part_name(parts[-1], "0a1b2c3d").encode("utf-8", "surrogateescape")
        folded(name)


def _variables(text: str) -> None:
    command = typer.main.get_command(_submit_app()).commands["submit"]  # type: ignore[attr-defined]
    for name in ("HIML_SUBMIT_NUM_NODES", "HIML_SUBMIT_WAIT", "HIML_SUBMIT_CLUSTER", "HIML_SUBMIT_MAX_TRIALS", f"HIML_SUBMIT_{text}"):
        check_variables(command, {name: text})


def _submit_app() -> Any:
    from himl_cli.app import app

    return app


def targets() -> list[Target]:
    found = [Target(f"typed/{name}", _texts_of(samples), call, refusals) for name, call, samples, refusals in CALLS]
    name = texts(NAMES)
    return [
        *found,
        Target("typed/address", _texts_of((SIGNED, "http://127.0.0.1:8080/a", "https:/host", "s3://b/k", STUDIO)), _address, ()),
        Target("typed/sweep", _sweeps, _sweep),
        Target("typed/filters", lambda: st.tuples(texts(GLOBS), texts(GLOBS), name), _admit),
        Target("typed/ignore_rules", lambda: st.tuples(contents(IGNORED), name.filter(_can_be_path)), _ignore, ()),
        Target("typed/file_name", lambda: name, _safe_name, (UnsafeName,)),
        Target("typed/pairs", _texts_of(("A=b", "x", "=y", "a=b=c")), lambda text: options.parse_pairs("--tag", [text])),
        Target("typed/count", _texts_of(("all", "3", "0")), lambda text: options.parse_count("--num_runs", text)),
        Target("typed/status", _texts_of(("Completed", "failed", "Running")), lambda text: options.parse_statuses("--status", [text])),
    ]


def _can_be_path(name: str) -> bool:
    """Whether a file of this machine can be called so."""
    try:
        return "\0" not in name and bool(Path(name).parts) and len(name.encode("utf-8", "surrogateescape")) < 4096
    except UnicodeEncodeError:
        return False


def _texts_of(samples: Sequence[str]) -> Callable[[], st.SearchStrategy[str]]:
    return lambda: texts(samples)

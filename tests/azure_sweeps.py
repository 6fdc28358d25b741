"""Sweeps on Azure ML of every kind, as fields of a job."""

from __future__ import annotations

from typing import Any

from himl_cli.core.jobs import DataSpec, Draw, EarlyStop, Entry, EntryKind, SearchRange, SweepSpec

KERNELS = SearchRange(Draw.choice, ["linear", "rbf"])
RATES = SearchRange(Draw.choice, [0.1, 0.01, 1, "auto"])
EVERY_DRAW = {
    "a": SearchRange(Draw.uniform, [0, 1.5]),
    "b": SearchRange(Draw.loguniform, [-6, -1]),
    "c": SearchRange(Draw.normal, [0.5, 2]),
    "d": SearchRange(Draw.lognormal, [0, 1]),
    "e": SearchRange(Draw.randint, [10]),
    "f": SearchRange(Draw.quniform, [1, 10, 2]),
    "g": SearchRange(Draw.qloguniform, [0, 3, 1]),
    "h": SearchRange(Draw.qnormal, [5, 2, 1]),
    "i": SearchRange(Draw.qlognormal, [1, 1, 1]),
}
SWEEPS: dict[str, dict[str, Any]] = {
    "grid": {"sweep": SweepSpec({"kernel": KERNELS, "lr": RATES}, max_trials=8)},
    "crossval": {"sweep": SweepSpec({"crossval_index": SearchRange(Draw.choice, [0, 1, 2])}, max_trials=3, kind="crossval")},
    "every draw, with a seed": {"sweep": SweepSpec(EVERY_DRAW, "random", 20, 4, "Accuracy", "maximize", seed=7, max_seconds=86400.0), "max_seconds": 5400.0},
    "random, without a seed": {"sweep": SweepSpec({"lr": RATES}, "random", 3)},
    "more trials than may run at a time by number": {"sweep": SweepSpec({"n": SearchRange(Draw.choice, [*range(200)])}, max_trials=200)},
    "bayesian": {"sweep": SweepSpec({"lr": SearchRange(Draw.uniform, [0.0, 1.0])}, "bayesian", 20, 2)},
    "bandit by a factor": {"sweep": SweepSpec({"lr": RATES}, "random", 5, early_stop=EarlyStop("bandit", 2, 5, slack_factor=0.1))},
    "bandit by an amount": {"sweep": SweepSpec({"lr": RATES}, "random", 5, early_stop=EarlyStop("bandit", slack_amount=0.2))},
    "median": {"sweep": SweepSpec({"lr": RATES}, "random", 5, early_stop=EarlyStop("median", 1, 5))},
    "truncation": {"sweep": SweepSpec({"lr": RATES}, "random", 5, early_stop=EarlyStop("truncation", 3, 1, truncation_percentage=20))},
    "truth values and odd words": {
        "sweep": SweepSpec(
            {"augment": SearchRange(Draw.choice, [True, False]), "name": SearchRange(Draw.choice, ["a b", "$HOME", "é漢", "it's"])}, max_trials=8
        ),
        "arguments": ["--fixed", "x y", "--n=${{search_space.name}}"],
    },
    "ranks, data, names": {
        "sweep": SweepSpec({"lr": RATES}, max_trials=4, max_concurrent=2),
        "nodes": 2,
        "processes": 4,
        "distribution": "pytorch",
        "docker_args": ["--ipc=host"],
        "identity": "user",
        "env": {"N": "01"},
        "tags": {"team": "blue"},
        "display_name": "shown",
        "description": "a: b # c",
        "inputs": [DataSpec("a", "pictures", version="1", mode="mount")],
        "outputs": [DataSpec("o", "trained"), DataSpec("p", "kept", datastore="second", mode="upload")],
        "arguments": ["${{inputs.a}}", "--o=${{ outputs.o }}/x"],
    },
    "a line for bash": {
        "sweep": SweepSpec({"lr": RATES}, max_trials=4),
        "entry": Entry(EntryKind.command, "python train.py --lr '${{search_space.lr}}' && echo done"),
    },
}

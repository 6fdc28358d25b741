"""Functions for scripts inside a job: the folders of its data, and the checkpoint of an earlier attempt.

    from himl_cli.job import inputs, outputs

    images = inputs()["images"]     # himl submit train.py --input images=NAME
    outputs()["model"] / "m.bin"    # --output model=NAME

    from himl_cli.job import recovery_checkpoint

    checkpoint = recovery_checkpoint()  # the file to resume from after a preemption, or None

The default keys of `--input NAME` and `--output NAME` are INPUT_0, INPUT_1, … and OUTPUT_0, OUTPUT_1, …
"""

from __future__ import annotations

from himl_cli.api.job_folders import inputs as inputs
from himl_cli.api.job_folders import outputs as outputs
from himl_cli.api.job_folders import recovery_checkpoint as recovery_checkpoint

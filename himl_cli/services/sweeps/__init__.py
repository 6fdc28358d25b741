"""From what the user asked for to a sweep that a workspace can run."""

from himl_cli.services.sweeps.asked import SweepRequest, sweep_of
from himl_cli.services.sweeps.checks import check_sweep
from himl_cli.services.sweeps.remarks import copies_remarks, sweep_remarks
from himl_cli.services.sweeps.seeds import seeded
from himl_cli.services.sweeps.wording import sweep_text

__all__ = ["SweepRequest", "check_sweep", "copies_remarks", "seeded", "sweep_of", "sweep_remarks", "sweep_text"]

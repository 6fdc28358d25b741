"""Names of tags by which a run that is kept here and told to an Azure ML workspace says so."""

from __future__ import annotations

RECORDED_IN = "himl.recorded_in"
"""Of the run here: the workspace that it is told to."""
STUDIO = "himl.studio"
"""Of the run here: the page of the other one."""
STOPPED = "himl.recording_stopped"
"""Of the run here: why not all of it could be told."""
RECORDED_FROM = "himl.recorded_from"
"""Of the run there: the machine that it runs on."""
OF_RECORDING = (RECORDED_IN, STUDIO, STOPPED, RECORDED_FROM)

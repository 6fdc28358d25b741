"""Names of the variables that set options of submit, secrets among them: they reach no job."""

from __future__ import annotations

VARIABLE_PREFIX = "HIML_SUBMIT_"


def environment_variable(option: str) -> str:
    """The variable that sets an option of submit."""
    return VARIABLE_PREFIX + option.upper()

"""A workspace on another machine, which himl reaches by SSH."""

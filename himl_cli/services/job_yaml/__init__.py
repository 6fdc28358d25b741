"""A job in Azure ML's YAML (command, sweep or pipeline) as the target of `himl submit`, up to what runs on this
machine."""

"""Jobs that are written down in Azure ML's own YAML."""

"""Pipelines: several jobs as one, each reading what others wrote."""

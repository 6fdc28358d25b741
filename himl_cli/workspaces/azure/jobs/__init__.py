"""Sending jobs to an Azure ML workspace: what they refer to, how they are built, how they are sent."""

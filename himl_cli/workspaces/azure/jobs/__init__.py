"""Submission of jobs to an Azure ML workspace: their resources, request bodies and requests."""

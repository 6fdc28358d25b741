"""Which versions of the services' routes himl asks for, where one has to be said."""

JOBS = "2024-10-01"
"""Resource manager: the list of jobs and their cancelation.

A stable version, published in Azure/azure-rest-api-specs; previews, which the vendor's SDK names, are retired one day.
"""
MODELS = "1.0.0"
"""The registry of models, as azure-ai-ml asks it."""

"""Which versions of the services' routes himl asks for, where one has to be said."""

JOBS = "2024-10-01"
"""Resource manager: the list of jobs and their cancelation.

A stable version, published in Azure/azure-rest-api-specs; previews, which the vendor's SDK names, are retired one day.
"""
WORKSPACES = "2024-10-01"
"""Resource manager: a workspace, and what is registered in it."""
ENVIRONMENTS = "2024-10-01"
COMPUTES = "2024-10-01"
CODES = "2023-04-01"
"""As azure-ai-ml asks for them; so are data assets."""
DATA = "2023-04-01"
DATASTORES = "2024-10-01"
DATASTORE_SECRETS = "2025-12-01"
"""The one in which the vendor's SDK lets a secret expire."""
ENDPOINTS = "2015-01-01"
"""Resource manager's page about the cloud."""
STORAGE = "2023-11-03"
"""The `x-ms-version` of every request to storage: tells names that XML cannot hold, and takes bearer tokens."""
MODELS = "1.0.0"
"""The registry of models, as azure-ai-ml asks it."""

"""A script that submits itself: hi-ml's `submit_to_azure_if_needed`, by the services that `himl submit` has."""

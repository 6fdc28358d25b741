"""What `submit_azure` measures: a project, and the vendor's way to submit it."""

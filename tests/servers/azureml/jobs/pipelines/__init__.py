"""Pipeline jobs: what the service refuses, and how it runs the rest."""

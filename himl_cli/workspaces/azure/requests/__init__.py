"""Asking a service over HTTP: transport, retries, what refusals mean, and what is kept of the answers."""

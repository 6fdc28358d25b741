"""Preparation of jobs from the user's options and files."""

"""What runs the jobs of a local workspace."""

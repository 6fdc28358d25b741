"""From what the user asked for to a job that a workspace can run."""

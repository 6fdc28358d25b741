"""The local workspace: a `.himl` folder, its database, and jobs on this machine."""

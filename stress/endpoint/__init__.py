"""The server that a local job has for MLflow's clients, met by whoever else is on the machine."""

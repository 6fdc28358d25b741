"""MLflow's tracking REST for one job, on the loopback interface, kept in the local database."""

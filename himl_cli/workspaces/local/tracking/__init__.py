"""MLflow's tracking REST for one job, on the loopback interface, stored in the local database."""

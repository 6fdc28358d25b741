"""Where runs and files live."""

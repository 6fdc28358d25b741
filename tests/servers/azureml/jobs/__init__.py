"""Jobs that really run: what was submitted is laid out in a folder and executed there, its logs and outputs go to storage."""

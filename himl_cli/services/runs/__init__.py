"""Find, show, follow, change and compare runs, and write to them."""

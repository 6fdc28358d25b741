"""Sweep jobs that really run: trials are drawn, started as jobs of their own, watched, and stopped early."""

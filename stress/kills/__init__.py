"""Commands that are killed at a random moment, and what they leave. Needs Linux: processes are found by /proc."""

"""What many runs logged, side by side: which runs are meant, what they are called, their statistics, and files of
it."""

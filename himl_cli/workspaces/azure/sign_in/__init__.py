"""Who is signed in, and tokens."""

"""Garbage in place of all that comes from outside: files, texts, headers, answers, state that others may have written."""

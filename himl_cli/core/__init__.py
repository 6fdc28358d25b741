"""Plain facts about runs, jobs and files: no terminal, no network, no database."""

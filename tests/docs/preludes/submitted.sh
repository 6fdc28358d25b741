# A run with a copy of its code.
printf 'print("trained")\n' > short.py
himl submit short.py

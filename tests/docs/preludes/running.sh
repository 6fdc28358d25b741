# A job that runs until it is stopped.
printf 'import time\ntime.sleep(600)\n' > wait.py
himl submit wait.py --no_wait

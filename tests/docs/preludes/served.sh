# A job with services that runs until the workspace is deleted.
printf 'import time\ntime.sleep(600)\n' > wait.py
himl submit wait.py --cluster gpu --vscode --jupyter

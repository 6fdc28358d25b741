# A canceled sweep. Its script waits for the file `go`.
printf 'import pathlib, time\nwhile not pathlib.Path("../../../../go").exists():\n    time.sleep(0.05)\n' > stopped.py
stopped=$(himl submit stopped.py --sweep 'fold=0,1' --no_wait -q)
himl runs cancel "$stopped"
until himl runs show "$stopped" | grep Canceled; do sleep 0.1; done
touch go

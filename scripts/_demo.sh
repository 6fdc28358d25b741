# Used by the other scripts: trains the model of examples/train.py with the himl on PATH, and shows the results.

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

run himl submit examples/train.py -- --epochs 5
run himl runs list
run himl download --prefix outputs

run_id="$(cut -d: -f2 most_recent_run.txt)"
printf '\nOutputs:\n'
find "outputs/$run_id" -type f | sort
run cat "outputs/$run_id/outputs/results.json"
run himl runs show

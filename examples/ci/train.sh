#!/usr/bin/env bash
# train.sh [OPTIONS OF himl submit]: trains on the cluster $CLUSTER, brings what came out into results/, and ends with
# an error where the job failed or its accuracy is below $LEAST_ACCURACY. Where a himl command fails, its exit code is
# the script's. Needs himl and jq.
set -euo pipefail

refuse() { echo "$1" >&2 && exit 2; }
[ -n "${CLUSTER-}" ] || refuse "CLUSTER is not set: it has to name a cluster, or be 'local'."
[[ "${LEAST_ACCURACY-}" =~ ^[0-9]+([.][0-9]+)?$ ]] ||
    refuse "LEAST_ACCURACY is '${LEAST_ACCURACY-}': it has to be a number such as 0.9."
command -v jq >/dev/null || refuse "jq is not installed: this script reads the accuracy with it."

mkdir -p results
himl submit train.py --cluster "$CLUSTER" --wait "$@" || {
    code=$?
    case $code in [2-5]) himl doctor || true ;; esac # for the log: what is not in order here
    exit "$code"
}
himl download --prefix outputs --output_dir results --flat
himl runs aggregate --json >results/metrics.json
jq -e --argjson least "$LEAST_ACCURACY" \
    '.children | length > 0 and all(.[].last.accuracy; type == "number" and . >= $least)' results/metrics.json ||
    { [ $? = 1 ] && echo "The accuracy is below $LEAST_ACCURACY, or was not logged." >&2; exit 1; }

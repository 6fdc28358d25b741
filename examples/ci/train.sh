#!/usr/bin/env bash
# train.sh [OPTIONS OF himl submit]: trains on the cluster $CLUSTER and downloads the outputs to results/. It fails if the
# job fails, or if its accuracy is below $LEAST_ACCURACY. If a himl command fails, the script ends with the same exit
# code. Needs himl and jq.
set -euo pipefail

refuse() { echo "$1" >&2 && exit 2; }
[ -n "${CLUSTER-}" ] || refuse "CLUSTER is not set. It must be the name of a cluster or 'local'."
[[ "${LEAST_ACCURACY-}" =~ ^[0-9]+([.][0-9]+)?$ ]] ||
    refuse "LEAST_ACCURACY must be a number such as 0.9, not '${LEAST_ACCURACY-}'."
command -v jq >/dev/null || refuse "jq is not installed. This script needs it to read the accuracy."

mkdir -p results
himl submit train.py --cluster "$CLUSTER" --wait "$@" || {
    code=$?
    # Write the problems of the set-up to the log.
    case $code in [2-5]) himl doctor || true ;; esac
    exit "$code"
}
himl download --prefix outputs --output_dir results --flat
himl runs aggregate --json >results/metrics.json
jq -e --argjson least "$LEAST_ACCURACY" \
    '.children | length > 0 and all(.[].last.accuracy; type == "number" and . >= $least)' results/metrics.json ||
    { [ $? = 1 ] && echo "The accuracy is below $LEAST_ACCURACY, or was not logged." >&2; exit 1; }

#!/usr/bin/env bash
# A plain Ray cluster: machines that share /shared and have the same Kilter. Run each block where it says.
set -euo pipefail

# On the first machine:
ray start --head --port=6379 --dashboard-host=0.0.0.0

# On every other machine:
ray start --address=head:6379

# From anywhere that reaches the head. Again the same command resumes the run.
kilter submit recipes/cluster-7b.yaml --address http://head:8265 --runs /shared/runs --name seven --follow

# Later:
kilter submit --status seven --address http://head:8265
kilter submit --stop seven --address http://head:8265

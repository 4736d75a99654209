#!/bin/bash
# A comparison as a plain SLURM array job: no scheduler of Dask, nothing that has to stay alive.
#   bash jobs/slurm-array.sh job.yaml 32
# Each of the three commands can be repeated: what is done is left alone.
set -euo pipefail
job=$(realpath "$1")
parts=${2:-32}
memory=4G

dask-svcca init "$job" --parts "$parts" --memory "${memory}iB"
array=$(sbatch --parsable --array="0-$((parts - 1))" --cpus-per-task=1 --mem="$memory" --time=04:00:00 --requeue \
    --export=ALL --wrap "dask-svcca part '$job' \$SLURM_ARRAY_TASK_ID")
sbatch --parsable --dependency="afterany:$array" --cpus-per-task=1 --mem="$memory" --time=01:00:00 \
    --export=ALL --wrap "dask-svcca finalise '$job'"

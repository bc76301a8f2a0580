#!/bin/bash
# Starts one of the paper's runs on 8 nodes with 8 GPUs each:
#   MODEL=b16|l14|l14-336 sbatch slurm.sh stage1|stage2-caption|stage2-retrieval
# Needs a build with --features cuda (`mmgem info --devices` shows it), on a file system that all
# nodes share.
#SBATCH --job-name=mmgem
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
# Two minutes before the time limit all ranks save a checkpoint and the job is requeued.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
recipe=${1:?stage1, stage2-caption or stage2-retrieval}
model=${MODEL:-l14}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))

set -- --set out="runs/paper-$recipe-$model"
case $recipe in
    stage1) set -- "$@" --set model.from="models/$model" ;;
    *) set -- "$@" --set model.from="runs/paper-stage1-$model/model" ;;
esac
# At 336 pixels a micro-batch of 32 does not fit into 80 GB (see `mmgem plan`).
case $recipe-$model in stage1-l14-336) set -- "$@" --set optim.micro_batch=16 ;; esac
srun --kill-on-bad-exit=1 mmgem train "assets/recipes/paper/$recipe.toml" "$@" --device cuda --resume &
run=$!
trap 'scancel --signal=USR1 "$SLURM_JOB_ID.0"; sleep 90; scontrol requeue "$SLURM_JOB_ID"' USR1
# A signal ends the first `wait`; the second waits for the run itself.
wait $run || wait $run

#!/bin/bash
# Starts one of the paper's runs with mpirun:
#   MODEL=b16|l14|l14-336 mpirun.sh HOSTFILE stage1|stage2-caption|stage2-retrieval
# Needs a build with --features cuda,mpi on a file system that all nodes share. `kill -USR1` on
# mpirun saves a checkpoint. The same command resumes from the newest checkpoint.
set -euo pipefail
hosts=${1:?a host file, one line per node with slots=8} recipe=${2:?stage1, stage2-caption or stage2-retrieval}
model=${MODEL:-l14}
set -- --set out="runs/paper-$recipe-$model"
case $recipe in
    stage1) set -- "$@" --set model.from="models/$model" ;;
    *) set -- "$@" --set model.from="runs/paper-stage1-$model/model" ;;
esac
# At 336 pixels a micro-batch of 32 does not fit into 80 GB (see `mmgem plan`).
case $recipe-$model in stage1-l14-336) set -- "$@" --set optim.micro_batch=16 ;; esac
exec mpirun --hostfile "$hosts" --map-by ppr:8:node --bind-to none \
    mmgem train "assets/recipes/paper/$recipe.toml" "$@" --device cuda --resume

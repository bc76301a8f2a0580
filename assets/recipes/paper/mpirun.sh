#!/bin/bash
# One of the paper's runs by mpirun:  MODEL=b16|l14|l14-336 mpirun.sh HOSTFILE stage1|stage2-caption|stage2-retrieval
# Needs a build with --features cuda,mpi on a file system that all nodes share. `kill -USR1` of mpirun saves a checkpoint;
# after any end the same command goes on from the newest one.
set -euo pipefail
hosts=${1:?a host file, one line per node with slots=8} recipe=${2:?stage1, stage2-caption or stage2-retrieval}
model=${MODEL:-l14}
set -- --set out="runs/paper-$recipe-$model"
case $recipe in
    stage1) set -- "$@" --set model.from="models/$model" ;;
    *) set -- "$@" --set model.from="runs/paper-stage1-$model/model" ;;
esac
# At 336 pixels 32 samples at once do not fit into 80 GB (`--plan`).
case $recipe-$model in stage1-l14-336) set -- "$@" --set optim.micro_batch=16 ;; esac
exec mpirun --hostfile "$hosts" --map-by ppr:8:node --bind-to none \
    mmgem train "assets/recipes/paper/$recipe.toml" "$@" --device cuda --resume

#!/bin/bash
# One run on the GPUs of several machines, a process for each GPU:
#   sbatch scripts/slurm.sh dataset=cifar10 num_samples=50000 runtime.mesh=data:4/batch:2
# If it was cut off:
#   sbatch scripts/slurm.sh --resume outputs/2026-01-31/12-00-00-000000
# A sweep takes no script: each of its runs is a job of its own (pip install -e '.[slurm]').
#   gdiff sample -m hydra/launcher=submitit_slurm hydra.launcher.gpus_per_node=1 seed=0,1,2,3
#SBATCH --job-name=gdiff
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# Not --gpus-per-task: JAX gives each process its GPU among all of the machine's.
srun --kill-on-bad-exit=1 gdiff sample --quiet "$@" runtime.distributed=true

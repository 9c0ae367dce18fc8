#!/bin/bash
#SBATCH --job-name=hpchub-batch
#SBATCH --partition=gpu
#SBATCH --ntasks=5
#SBATCH --cpus-per-task=2
#SBATCH --mem-per-cpu=2048M
#SBATCH --time=90
#SBATCH --output=job.log
#SBATCH --export=NIL
#SBATCH --no-requeue
#SBATCH --account=climate
#SBATCH --reservation=tutorial

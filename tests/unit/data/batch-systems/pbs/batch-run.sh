#!/bin/bash
#PBS -N hpchub-batch
#PBS -q gpu
#PBS -l select=5:ncpus=2:mpiprocs=1:mem=4096mb
#PBS -l walltime=01:30:00
#PBS -j oe
#PBS -o job.log
#PBS -k oed
#PBS -r n
#PBS -A climate
#PBS -k oed

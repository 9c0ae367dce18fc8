#!/bin/bash
#BSUB -J hpchub-batch
#BSUB -q gpu
#BSUB -n 10
#BSUB -M 4096MB
#BSUB -W 90
#BSUB -o job.log
#BSUB -env none
#BSUB -rn
#BSUB -P climate
#BSUB -U tutorial

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
exec /opt/hpchub/lab/0123456789ab/bin/python -I -m hpchub.batch_runs.job <<'END-OF-HPCHUB-BATCH'
{"version": 2, "notebook": "/home/alice/a.ipynb", "scheduler": "slurm", "queue": "gpu", "project": "climate", "workers": 3, "cores": 2, "memory_mib": 4096, "walltime_minutes": 90, "launcher": ["/usr/bin/srun"], "mpi": false, "shared_prefix": "/opt/hpchub", "directives": ["--reservation=tutorial"], "directory": "/home/alice/a.runs/1"}
END-OF-HPCHUB-BATCH

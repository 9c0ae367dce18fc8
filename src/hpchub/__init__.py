"""hpchub: JupyterLab and Dask as jobs of an existing HPC cluster."""

"""`hpchub batch`: a notebook runs as one batch job with Dask workers, and its results are kept."""

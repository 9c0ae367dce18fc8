"""What is changed in Dask, dask-jobqueue and the Lab's Dask panel when they are imported."""

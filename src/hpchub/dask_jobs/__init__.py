"""Dask clusters whose workers are batch jobs of the user, made from a Lab, a terminal or by ssh."""

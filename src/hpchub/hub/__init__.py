"""The hub's own process: JupyterHub as we run it, with its spawner, its pages and what it keeps."""

"""The engine: the only package that builds Dask work."""

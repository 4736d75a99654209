"""``python -m dask_svcca``: the command line, where its script is not on the path."""

from dask_svcca.cli import main

if __name__ == "__main__":
    main()

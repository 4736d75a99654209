"""What a worker does: subspaces and tiles. No Dask: tasks are values, and `perform` does one."""

from dask_svcca.tasks.perform import perform
from dask_svcca.tasks.worker import Context, release, single_blas_thread

__all__ = ["Context", "perform", "release", "single_blas_thread"]

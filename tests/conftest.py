"""Settings that hold for every test."""

from hypothesis import settings

# A time limit for each example says more about a busy machine than about the code; all else stays as hypothesis has it,
# its own settings under continuous integration included.
settings.register_profile("dask-svcca", parent=settings.default, deadline=None)
settings.load_profile("dask-svcca")

"""How an array of activations is read: one class per reading, and how two readings are brought together."""

from dask_svcca.readings.choose import CHOICES, ReadingOptions, check_choice, choose_reading
from dask_svcca.readings.kinds import First, Flatten, Fourier, Last, Mean, Neurons, Positions, Reading
from dask_svcca.readings.meeting import EXAMPLES, Meeting, divides, meet, needed_folds

__all__ = [
    "CHOICES",
    "EXAMPLES",
    "First",
    "Flatten",
    "Fourier",
    "Last",
    "Mean",
    "Meeting",
    "Neurons",
    "Positions",
    "Reading",
    "ReadingOptions",
    "check_choice",
    "choose_reading",
    "divides",
    "meet",
    "needed_folds",
]

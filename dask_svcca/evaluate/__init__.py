"""The one place where a pair becomes a number: couplings and spectra in, values out."""

from dask_svcca.evaluate.basis import Basis, MemberBlock, block_weights, direction_weights
from dask_svcca.evaluate.details import Details, finish_details, no_details
from dask_svcca.evaluate.evaluation import Evaluation, Values
from dask_svcca.evaluate.memory import STACK_BYTES, pair_bytes, solving_bytes
from dask_svcca.evaluate.trial import try_measure
from dask_svcca.evaluate.unequal import are_unequal

__all__ = [
    "STACK_BYTES",
    "Basis",
    "Details",
    "Evaluation",
    "MemberBlock",
    "Values",
    "are_unequal",
    "block_weights",
    "direction_weights",
    "finish_details",
    "no_details",
    "pair_bytes",
    "solving_bytes",
    "try_measure",
]

"""Array types of the kernels."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
"""Real, floating."""

InexactArray: TypeAlias = npt.NDArray[np.inexact[Any]]
"""Real or complex, floating."""

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

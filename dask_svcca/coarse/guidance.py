"""What of a comparison is guided by sketches: which pairs, in which order, and a first look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from dask_svcca.coarse.sketched import estimated, place_beside
from dask_svcca.plan.selection import Selection, nearest_of
from dask_svcca.readings import check_choice
from dask_svcca.run.preview import check_estimable
from dask_svcca.run.progress import STAGES
from dask_svcca.sketches.make import STAGES as SKETCH_STAGES
from dask_svcca.sketches.make import check_place

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_svcca.coarse.estimated import Estimated
    from dask_svcca.plan.parameters import Parameters
    from dask_svcca.plan.selection import Pairs
    from dask_svcca.stores._io import StoreLike
    from dask_svcca.stores.zoo import Zoo

TileOrder = Literal["stored", "by estimate"]

GUIDED_STAGES: Final = {**SKETCH_STAGES, **STAGES}
"""The stages of a comparison that goes by sketches."""


@dataclass(frozen=True, eq=False)
class Guidance:
    """What a caller asks for that hangs on sketches.

    Attributes
    ----------
    asked : str, boolean matrix, or Selection
        Pairs, as they are asked for.
    nearest : int or None
        Partners of each representation, where the nearest are asked for.
    place : path, zarr store, URL, or None
        Where the sketches are; None where none are needed.
    """

    asked: Pairs
    nearest: int | None
    place: StoreLike | None

    @classmethod
    def of(
        cls,
        pairs: Pairs,
        store: StoreLike,
        sketches: StoreLike | None,
        parameters: Parameters,
        *,
        preview: bool = False,
        order: str = "stored",
    ) -> Guidance:
        """Check what is asked for; nothing is read.

        Parameters
        ----------
        pairs, store, sketches, parameters, preview, order
            See `dask_svcca.compare`.

        Raises
        ------
        ValueError
            Where an option is not valid, or sketches are named that nothing goes by.
        StoreFormatError
            Where sketches are at no place, or in the folder of the comparison.
        """
        check_choice("order", order, get_args(TileOrder))
        if not isinstance(preview, bool):
            raise ValueError(f"preview is True or False; got {preview!r}")  # noqa: TRY004 - as for other values
        if preview:
            check_estimable(parameters)
        nearest = nearest_of(pairs)
        if nearest is None and not preview and order == "stored":
            if sketches is not None:
                raise ValueError(
                    "sketches= says where sketches are, and nothing that is asked for goes by them: use it with "
                    "pairs='nearest 20', preview=True or order='by estimate', or leave it out"
                )
            return cls(pairs, None, None)
        if sketches is None:
            return cls(pairs, nearest, place_beside(store))
        check_place(sketches, store, "comparison")
        return cls(pairs, nearest, sketches)

    @property
    def stages(self) -> dict[str, tuple[str, str]]:
        """The stages of such a comparison, and how each is told."""
        return dict(STAGES if self.place is None else GUIDED_STAGES)

    def estimated(
        self,
        zoo: Zoo,
        parameters: Parameters,
        *,
        make: bool = True,
        check: Callable[[Pairs], object] | None = None,
        **options: Any,
    ) -> Estimated | None:
        """What sketches say of all pairs, which are made where they are not there; None where they are not needed.

        Parameters
        ----------
        zoo : Zoo
        parameters : Parameters
        make : bool
            Whether sketches that are not there are made. Otherwise they are needed only where they choose the pairs:
            the order of tiles makes no difference to a plan.
        check : callable, optional
            Called with pairs before sketches are made, and raises where comparing them is refused: those asked for, and
            where sketches choose these, each representation with itself, which is always among them.
        **options : object
            See `dask_svcca.coarse.sketched.estimated`.
        """
        if self.place is None or (not make and self.nearest is None):
            return None

        def before() -> None:
            if check is not None:
                check(self.asked if self.nearest is None else Selection.of_partners(np.empty((len(zoo), 0), np.int64)))

        return estimated(zoo, self.place, parameters, make=make, before=before, **options)

    def pairs(self, found: Estimated | None) -> Pairs:
        """Pairs as `dask_svcca.run.compare.run_comparison` takes them."""
        return self.asked if self.nearest is None or found is None else found.nearest(self.nearest)

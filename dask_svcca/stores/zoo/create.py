"""How a zoo is created and opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from dask_svcca.errors import InvalidQuestionError, MismatchedExamplesError, StoreFormatError
from dask_svcca.stores import _create, _io
from dask_svcca.stores._digest import DIGEST, ids_digest
from dask_svcca.stores._urls import with_options
from dask_svcca.stores.zoo.examples import digests_of, example_coords, example_ids, write_coords
from dask_svcca.stores.zoo.store import Zoo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from dask_svcca.stores._io import StoreLike

FORMAT_VERSION = 3
KIND = "zoo"


def create_zoo(
    store: StoreLike,
    *,
    examples: Sequence[Any] | npt.NDArray[Any],
    coords: Mapping[str, npt.ArrayLike] | None = None,
    exist_ok: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Zoo:
    """Create a zoo for a set of examples.

    Parameters
    ----------
    store : path, zarr store, or URL
    examples : (example,)
        Ids, text or integers, unique. All representations of the zoo have these examples in this order.
    coords : mapping of str to (example,) or (example, token), optional
        Coordinates along the examples, for example ``label``; or along examples and tokens, for example a mask that
        is true for tokens and false for padding. Those that are labelled (pandas, xarray) are put in the order of the
        examples. Layers with another number of tokens do without the latter;
        ``xr.open_datatree``, which knows one length per dim, then needs ``drop_variables="mask"``.
    exist_ok : bool
        Open the zoo if it is there already and has the same examples. Of several processes that call at once, one
        creates it, and all get it.
    storage_options : mapping, optional
        For a URL, beside environment variables: for an object store what obstore calls them, such as ``endpoint``,
        ``region``, ``access_key_id`` and ``secret_access_key``; for any other URL what its file system in fsspec takes.

    Returns
    -------
    Zoo
        Open for writing.

    Raises
    ------
    StoreFormatError
        Where something is there already, or a folder has other things in it.
    MismatchedExamplesError
        Where a coordinate is not of these examples, or, with ``exist_ok``, the zoo has others.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    >>> with create_zoo(tempfile.mkdtemp() + "/zoo.zarr", examples=range(100)) as zoo:
    ...     zoo.write("resnet-s0", "step00100", "block1.conv1", x, step=100, depth=3)
    >>> zoo["resnet-s0", "step00100", "block1.conv1"].sizes["neuron"]
    8
    """
    store = with_options(store, storage_options)
    ids = example_ids(examples)
    values = example_coords(ids, coords)
    digest = ids_digest(ids)
    attributes = {
        "format": f"dask-svcca-{KIND}",
        "format_version": FORMAT_VERSION,
        "digest": DIGEST,
        "n_examples": len(ids),
        "examples_digest": digest,
        "example_coordinates": digests_of(values),
    }
    if not _io.is_group(store) or _create.is_unfinished(store, KIND):
        root = _create.create_whole(store, KIND, attributes, lambda root: write_coords(root, values))
        if root is not None:
            return Zoo(root, writable=True)
        # Another process was faster.
    zoo = open_zoo(store, mode="r+")
    if not exist_ok:
        raise StoreFormatError(
            f"there is a zoo at {_io.describe(store)!r} already; open it with open_zoo(store, mode='r+'), or "
            f"choose another place"
        )
    if zoo.examples_digest != digest:
        if sorted(map(str, zoo.examples)) == sorted(map(str, ids)):
            raise MismatchedExamplesError(
                f"the zoo at {_io.describe(store)!r} has the same {len(ids)} examples in another order: open it with "
                f"open_zoo(store, mode='r+'), and write arrays that are labelled with these ids, which are put in the "
                f"zoo's order"
            )
        raise MismatchedExamplesError(
            f"the zoo at {_io.describe(store)!r} has {zoo.n_examples} examples (digest "
            f"{zoo.examples_digest[:8]}), these are {len(ids)} (digest {digest[:8]}): they are not the same. Use "
            f"the same examples, or another zoo"
        )
    return zoo


def open_zoo(
    store: StoreLike, *, mode: Literal["r", "r+"] = "r", storage_options: Mapping[str, Any] | None = None
) -> Zoo:
    """Open a zoo.

    Parameters
    ----------
    store : path, zarr store, or URL
    mode : {"r", "r+"}
        ``r+`` to add representations.
    storage_options : mapping, optional
        For a URL, beside environment variables: for an object store what obstore calls them, such as ``endpoint``,
        ``region``, ``access_key_id`` and ``secret_access_key``; for any other URL what its file system in fsspec takes.

    Returns
    -------
    Zoo
        Only one small file is read.

    Raises
    ------
    StoreFormatError
        Where there is no zoo, or one of another version.
    StoreAccessError
        Where the store cannot be accessed.
    """
    store = with_options(store, storage_options)
    root = _io.open_root(store, mode=mode, kind=KIND, version=FORMAT_VERSION)
    return Zoo(root, writable=mode != "r")


def as_zoo(zoo: Zoo | StoreLike) -> Zoo:
    """A zoo as `open_zoo` has it; one that is open is returned as it is.

    Raises
    ------
    InvalidQuestionError
        For anything else than a zoo or where one is.
    """
    if isinstance(zoo, Zoo):
        return zoo
    if not _io.is_place(zoo):
        raise InvalidQuestionError(
            f"zoo is what open_zoo or create_zoo returned, or where it is; got {type(zoo).__name__}"
        )
    return open_zoo(zoo)

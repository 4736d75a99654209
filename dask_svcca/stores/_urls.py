"""Stores that a URL names: object stores through obstore, anything else through fsspec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

from zarr.storage import FsspecStore, ObjectStore

from dask_svcca.errors import StoreAccessError, StoreFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.abc.store import Store

T = TypeVar("T")

SERVICES = ("s3://", "s3a://", "gs://", "az://", "azure://", "abfs://", "abfss://")
"""How URLs of object stores begin."""


class Url(str):
    """A URL with the options of whoever opens it; no other code has to know of them.

    Attributes
    ----------
    options : dict
    """

    __slots__ = ("options",)
    options: dict[str, Any]

    def __new__(cls, text: str, options: Mapping[str, Any]) -> Self:
        """Text with options."""
        url = super().__new__(cls, text)
        url.options = dict(options)
        return url

    def __getnewargs__(self) -> tuple[str, dict[str, Any]]:  # type: ignore[override]
        """What it is pickled as."""
        return str(self), self.options


def with_options(store: T, options: Mapping[str, Any] | None) -> T | Url:
    """A store with options, where it is a URL; anything else as it is.

    Parameters
    ----------
    store : path, zarr store, or URL
    options : mapping or None
        For an object store those of `obstore.store.from_url`, such as ``{"endpoint": "http://127.0.0.1:9000"}``; for
        any other URL those of its file system in fsspec.

    Examples
    --------
    >>> with_options("s3://bucket/zoo.zarr", {"region": "eu-north-1"}).options
    {'region': 'eu-north-1'}
    >>> with_options("zoo.zarr", {"region": "eu-north-1"})
    'zoo.zarr'
    """
    if not options or not isinstance(store, str) or "://" not in store or store.startswith("file://"):
        return store
    return Url(store, options)


def like(store: object, other: str) -> str:
    """Another place, with the options of a store."""
    return with_options(other, getattr(store, "options", None))


def store_of_url(url: str) -> Store:
    """The zarr store of a URL.

    Keys, endpoints and regions come from the environment variables of the service, such as ``AWS_ENDPOINT_URL``, where
    the URL has no options that say them.

    Raises
    ------
    StoreAccessError
        Where the package that speaks to the service is not installed, or its options are not valid.
    StoreFormatError
        Where there is no such kind of URL.
    """
    options: dict[str, Any] = getattr(url, "options", {})
    url = str(url)
    try:
        if url.startswith(SERVICES):
            return ObjectStore(_object_store(url, options))
        return FsspecStore.from_url(url, storage_options=options)
    except ImportError as error:
        scheme = url.split("://", maxsplit=1)[0]
        raise StoreAccessError(
            f"what reads and writes {url!r} is not installed: {' '.join(str(error).split())}. fsspec has an extra for "
            f"each kind of URL: pip install 'fsspec[{scheme}]'"
        ) from error
    except (TypeError, ValueError) as error:
        if "rotocol" not in str(error):
            raise StoreAccessError(f"{url!r} cannot be opened with storage_options={options!r}: {error}") from error
        raise StoreFormatError(
            f"{url!r} is not a place that can be opened: {error}. Give a path, or a URL such as s3://bucket/zoo.zarr, "
            f"gs://..., az://..., memory://... or https://..."
        ) from error


def _object_store(url: str, options: Mapping[str, Any]) -> Any:
    try:
        from obstore.store import from_url  # noqa: PLC0415 - an extra
    except ImportError:
        raise StoreAccessError(
            f"obstore, which reads and writes {url!r}, is not installed: pip install 'dask-svcca[remote]'"
        ) from None
    try:
        return from_url(url, **options)
    except Exception as error:
        # Errors of obstore, an optional package, derive from nothing else.
        if not type(error).__module__.startswith("obstore"):
            raise
        said = str(error).split("Debug source:")[0].strip()
        raise StoreAccessError(f"{url!r} cannot be opened with these storage_options: {said}") from error

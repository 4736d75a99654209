"""Metadata of groups and arrays as zarr v3 stores it, sealed: each document says what it was when it was written.

A flipped digit in a shape, a checkpoint's step or a pack's index is valid JSON. The seal is a checksum of all that the
document says, among its attributes. Attributes that somebody adds later are not sealed, and do no harm.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import google_crc32c
import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Compression: TypeAlias = Literal["lz4", "zstd", "none"]

SEAL = "seal"
"""Attribute that holds the seal: a checksum, and the names of the attributes that it covers."""

CRC_BYTES = 4
"""Bytes that a chunk's checksum takes, behind what it covers."""

_ENCODER = json.JSONEncoder(sort_keys=True)
"""Made once: an index has thousands of seals to check."""

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def sealed(attributes: Mapping[str, Any], rest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Attributes with a seal of themselves, and of the rest of their document.

    Examples
    --------
    >>> kept = sealed({"step": 3})
    >>> is_sealed(kept), is_sealed({**kept, "note": "mine"}), is_sealed({**kept, "step": 2}), is_sealed({"step": 3})
    (True, True, False, False)
    """
    own = {name: value for name, value in attributes.items() if name != SEAL}
    return {**own, SEAL: {"of": sorted(own), "xxh3": _checksum(_plain(own), _plain(rest or {}))}}


def is_sealed(attributes: Mapping[str, Any], rest: Mapping[str, Any] | None = None) -> bool:
    """Whether attributes, and the rest of their document, are what was sealed."""
    try:
        seal: Mapping[str, Any] = attributes[SEAL]
        own = {name: attributes[name] for name in seal["of"]}
        return bool(seal["xxh3"] == _checksum(own, rest or {}))
    except (KeyError, TypeError, AttributeError, RecursionError):
        return False


def unsealed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without their seal."""
    return {name: value for name, value in attributes.items() if name != SEAL}


def _checksum(attributes: Mapping[str, Any], rest: Mapping[str, Any]) -> str:
    """Checksum of values as they are once they were written and read."""
    return str(xxhash.xxh3_64_hexdigest(_ENCODER.encode([attributes, rest]).encode()))


def _plain(values: Mapping[str, Any]) -> Any:
    """Values as they are once they were written and read."""
    return json.loads(json.dumps(values))


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """Document of a group."""
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": sealed(attributes)}).encode()


def array_document(
    *,
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    dtype: str,
    fill: Any,
    dims: Sequence[str],
    compression: Compression = "none",
    order: Sequence[int] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> bytes:
    """Document of an array, each of whose chunks ends in a checksum.

    Parameters
    ----------
    shape, chunk_shape : tuple of int
    dtype : str
        ``string``, or the name of a type of NumPy.
    fill : int, float or str
        What a chunk that is missing reads as through zarr.
    dims : sequence of str
    compression : {"lz4", "zstd", "none"}
    order : sequence of int, optional
        Order in which the axes of a chunk are stored.
    attributes : mapping, optional
    """
    codecs: list[dict[str, Any]] = [{"name": "vlen-utf8", "configuration": {}}] if dtype == "string" else [LITTLE]
    if order is not None:
        codecs.insert(0, {"name": "transpose", "configuration": {"order": list(order)}})
    if compression == "lz4":
        size = np.dtype(dtype).itemsize
        options = {"typesize": size, "cname": "lz4", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
        codecs.append({"name": "blosc", "configuration": options})
    elif compression == "zstd":
        codecs.append({"name": "zstd", "configuration": {"level": 1, "checksum": True}})
    codecs.append({"name": "crc32c"})
    if isinstance(fill, float) and math.isnan(fill):
        # JSON has no NaN; zarr writes it as text.
        fill = "NaN"
    if dtype.startswith("complex"):
        fill = [float(fill) if fill != "NaN" else fill] * 2
    rest = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(map(int, shape)),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(map(int, chunk_shape))}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "dimension_names": list(dims),
        "storage_transformers": [],
    }
    return json.dumps({**rest, "attributes": sealed(attributes or {}, rest)}).encode()


def parse(document: bytes) -> dict[str, Any]:
    """A JSON object, sealed or not.

    Raises
    ------
    ValueError
        Where it is something else, or is not JSON.

    Examples
    --------
    >>> parse(b'{"node_type": "group"}')
    {'node_type': 'group'}
    """
    try:
        found = json.loads(document)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"it is JSON of type {type(found).__name__}, not an object")  # noqa: TRY004 - not a mistake of ours
    return found


def parsed(document: bytes | None) -> dict[str, Any] | None:
    """A document that is what was written; None where it is missing or damaged."""
    try:
        found = parse(document or b"")
        attributes = found["attributes"]
    except (ValueError, KeyError):
        return None
    rest = {name: value for name, value in found.items() if name not in {"attributes", "consolidated_metadata"}}
    whole = is_sealed(attributes, rest if found.get("node_type") == "array" else None)
    return found if whole else None


def resized(document: Mapping[str, Any], shape: Sequence[int]) -> bytes:
    """The document of an array with another shape."""
    return _sealed_anew({**document, "shape": list(map(int, shape))})


def rechunked(document: Mapping[str, Any], tile: int) -> bytes:
    """The document of an array along pairs with other chunks along these."""
    grid = document["chunk_grid"]
    shape = [tile, tile, *grid["configuration"]["chunk_shape"][2:]]
    return _sealed_anew(
        {**document, "chunk_grid": {**grid, "configuration": {**grid["configuration"], "chunk_shape": shape}}}
    )


def _sealed_anew(document: dict[str, Any]) -> bytes:
    attributes = document.pop("attributes")
    return json.dumps({**document, "attributes": sealed(attributes, document)}).encode()


def crc(*parts: Any) -> bytes:
    """Checksum of a chunk, or of its parts one behind the other, as zarr's codec ``crc32c`` appends it.

    Examples
    --------
    >>> crc(b"ab", b"c") == crc(b"abc")
    True
    """
    total = 0
    for part in parts:
        # It takes arrays and bytes, and no memoryview.
        total = google_crc32c.extend(total, np.frombuffer(part, np.uint8))
    return int(total).to_bytes(CRC_BYTES, "little")


def is_whole(chunk: bytes) -> bool:
    """Whether a chunk ends in its checksum.

    Examples
    --------
    >>> is_whole(b"abc" + crc(b"abc")), is_whole(b"abd" + crc(b"abc")), is_whole(b"")
    (True, False, False)
    """
    return len(chunk) > CRC_BYTES and crc(memoryview(chunk)[:-CRC_BYTES]) == chunk[-CRC_BYTES:]

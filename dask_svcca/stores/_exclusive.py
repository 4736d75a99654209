"""Files that one of several processes makes, and how old they are by the clock of whoever stores them.

A network file system, or a service, has another clock than the machines that use it. What it wrote just now says how
late it is there.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, Final

PARTIAL: Final = ".partial"
"""Ending of files that are still being written."""


def create_file(path: str, data: bytes) -> bool:
    """Make a file, and the folders above it, unless it is there; whole at once where the file system has links."""
    target, partial = Path(path), Path(f"{path}.{uuid.uuid4().hex}{PARTIAL}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(data)
        os.link(partial, target)
    except FileExistsError:
        return False
    except OSError:
        # Without links, another process may see the file before its bytes.
        return _create_openly(target, data)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _create_openly(target: Path, data: bytes) -> bool:
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def age_of_file(path: str) -> float:
    """Seconds since a file was written."""
    probe = Path(f"{path}.{uuid.uuid4().hex}{PARTIAL}")
    written = Path(path).stat().st_mtime
    try:
        probe.write_bytes(b"now")
        return probe.stat().st_mtime - written
    finally:
        probe.unlink(missing_ok=True)


def age_of_object(store: Any, name: str) -> float:
    """Seconds since an object was written to a store of obstore."""
    probe = f"{name}.{uuid.uuid4().hex}{PARTIAL}"
    written = store.head(name)["last_modified"]
    store.put(probe, b"now")
    try:
        return float((store.head(probe)["last_modified"] - written).total_seconds())
    finally:
        store.delete(probe)


def sweep_folder(path: str) -> None:
    """Remove files below a folder that were still being written, but for those of leases, which others may write."""
    for folder, _, files in os.walk(path):
        for name in files:
            if name.endswith(PARTIAL) and not name.startswith(("lease-", ".lease-", ".creating-")):
                Path(folder, name).unlink(missing_ok=True)

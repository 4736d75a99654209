"""Files of Python that hold a user's own measures."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def import_file(path: Path) -> ModuleType:
    """Run a file as a module, under a name of its own."""
    # Under its own name it could hide a module that is there already.
    name = f"{path.stem}_{xxhash.xxh3_64_hexdigest(str(path.resolve()).encode())}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a file of Python")
    known = sys.modules.get(name)
    # As a reload does: what was registered before then uses the same names as what is registered now.
    loaded = sys.modules[name] = importlib.util.module_from_spec(spec) if known is None else known
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        if known is None:
            del sys.modules[name]
        raise
    return loaded

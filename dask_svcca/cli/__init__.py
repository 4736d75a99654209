"""The command line: ``dask-svcca``.

Packages that take long to import are imported by the command that needs them, so that help is there at once.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it with status 130 and no traceback, during imports too."""
    try:
        from dask_svcca.cli._program import program  # noqa: PLC0415 - Ctrl-C while it is imported is answered here

        program()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)

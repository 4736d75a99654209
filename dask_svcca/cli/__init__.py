"""The command line: ``dask-svcca``.

Packages that take long to import are imported by the command that needs them, so that help is there at once.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it with status 130 and no traceback, during imports and at the end too."""
    try:
        from dask_svcca.cli._program import program  # noqa: PLC0415 - Ctrl-C while it is imported is answered here

        program()
    except KeyboardInterrupt:
        _end_at_once_on_ctrl_c()
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    finally:
        _end_at_once_on_ctrl_c()


def _end_at_once_on_ctrl_c() -> None:
    """Where all is done and said, Python still ends threads and runs what was left for its end: not with tracebacks."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

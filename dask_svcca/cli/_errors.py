"""How a command ends: with one line where the request or the data is at fault, not with a traceback."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from dask_svcca.errors import DaskSvccaError

if TYPE_CHECKING:
    from collections.abc import Iterator


class Refused(click.ClickException):
    """An error that is about the request or the data, in one line."""

    exit_code = 2

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        """Print the message."""
        click.echo(
            f"{click.style('Error:', fg='red', bold=True)} {click.style(self.format_message(), fg='red')}", err=True
        )


class Interrupted(click.ClickException):
    """Ctrl-C; the message says what is kept."""

    exit_code = 130

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        """Print the message."""
        click.echo(click.style(self.format_message(), fg="yellow"), err=True)


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn this package's errors, errors of the system and Ctrl-C into what click prints in one line."""
    try:
        yield
    except DaskSvccaError as error:
        if "zarr" in sys.modules:
            from dask_svcca.stores._access import let_requests_end  # noqa: PLC0415 - imported by then

            # What fails of them then, asyncio would tell of, too.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            let_requests_end()
        raise Refused(str(error)) from error
    except BrokenPipeError:
        # The reader of the output has seen enough; click ends without a message.
        raise
    except OSError as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    except KeyboardInterrupt:
        raise Interrupted("Interrupted.") from None

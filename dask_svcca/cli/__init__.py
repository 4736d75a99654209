"""The command line: ``dask-svcca``."""

from __future__ import annotations

import click

import dask_svcca
from dask_svcca.cli._console import ErrorsInOneLine
from dask_svcca.cli.capture import capture
from dask_svcca.cli.compare import compare
from dask_svcca.cli.demo import demo
from dask_svcca.cli.importing import import_arrays
from dask_svcca.cli.info import info
from dask_svcca.cli.query import query


@click.group(
    cls=ErrorsInOneLine,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: dask-svcca demo",
)
@click.version_option(dask_svcca.__version__, prog_name="dask-svcca")
def main() -> None:
    """Compare every layer of every checkpoint of a model zoo with every other: SVCCA on Dask and zarr."""


for command in (demo, capture, import_arrays, compare, info, query):
    main.add_command(command)

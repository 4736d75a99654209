"""The commands by name, each imported when it runs or shows its own help."""

from __future__ import annotations

import importlib
from typing import Any

import click

from dask_svcca.cli._errors import errors_in_one_line


class Deferred(click.Command):
    """Stands for a command until it is needed: its name, and what the list of commands says of it.

    Parameters
    ----------
    name : str
    home : str
        Where the command is, as ``module:attribute``.
    sentence : str
        The first sentence of its help.
    """

    def __init__(self, name: str, home: str, sentence: str) -> None:
        super().__init__(name, help=sentence)
        self.home = home

    def load(self) -> click.Command:
        """The command itself."""
        module, _, attribute = self.home.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class Program(click.Group):
    """A group of deferred commands, which end with one line where the request or the data is at fault."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the options before the command."""
        with errors_in_one_line():
            return super().make_context(*args, **kwargs)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Deferred) else command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with errors_in_one_line():
            return super().invoke(ctx)


@click.group(
    cls=Program,
    commands=[
        Deferred(
            "demo",
            "dask_svcca.cli.demo:demo",
            "Compare a real zoo: four small networks, trained on digits, at eleven checkpoints each.",
        ),
        Deferred("capture", "dask_svcca.cli.capture:capture", "Capture the activations of models into a zoo."),
        Deferred(
            "layers",
            "dask_svcca.cli.layers:layers",
            "List the layers of an ONNX MODEL that can be captured, and what is left out and why.",
        ),
        Deferred("import", "dask_svcca.cli.importing:import_arrays", "Import activations from an npy or npz FILE."),
        Deferred(
            "compare",
            "dask_svcca.cli.compare:compare",
            "Compare every layer of every checkpoint of a ZOO with every other, and write a COMPARISON.",
        ),
        Deferred("run", "dask_svcca.cli.run:run", "Run the JOB that a file describes, and wait for its end."),
        Deferred("submit", "dask_svcca.cli.run:submit", "Submit the JOB that a file describes, and return at once."),
        Deferred(
            "jobs",
            "dask_svcca.cli.jobs:jobs",
            "List the jobs that were submitted on this machine, or all of a COMPARISON.",
        ),
        Deferred(
            "status",
            "dask_svcca.cli.jobs:status",
            "Show how far a JOB is: its id, or the path of its comparison.",
        ),
        Deferred(
            "attach", "dask_svcca.cli.jobs:attach", "Follow a JOB to its end. Ctrl-C ends the following, not the job."
        ),
        Deferred("logs", "dask_svcca.cli.jobs:logs", "Print the log of a JOB: what happened, and when."),
        Deferred(
            "cancel",
            "dask_svcca.cli.jobs:cancel",
            "End a JOB. What it has finished is kept: submitted again, it goes on from there.",
        ),
        Deferred(
            "forecast",
            "dask_svcca.cli.forecast:forecast",
            "Forecast what the JOB that a file describes takes: time, core-hours, bytes, memory.",
        ),
        Deferred(
            "init",
            "dask_svcca.cli.parts:init",
            "Plan the JOB that a file describes in parts, for an array job of a batch system.",
        ),
        Deferred(
            "part",
            "dask_svcca.cli.parts:part",
            "Do part NUMBER of a JOB that was planned with init; what is done already is left alone.",
        ),
        Deferred(
            "finalise",
            "dask_svcca.cli.parts:finalise",
            "Finish a JOB whose parts have ended, or say which of them have not done all, and what failed in them.",
        ),
        Deferred(
            "info",
            "dask_svcca.cli.info:info",
            "Show what is in a STORE: a zoo, a comparison, subspaces that comparisons share, or sketches.",
        ),
        Deferred(
            "verify",
            "dask_svcca.cli.verify:verify",
            "Read everything in a STORE, and name what is damaged or missing: a zoo, a comparison, subspaces, or "
            "sketches.",
        ),
        Deferred(
            "sketch",
            "dask_svcca.cli.sketch:sketch",
            "Make a sketch of every layer of every checkpoint of a ZOO: numbers whose products estimate a similarity.",
        ),
        Deferred(
            "search",
            "dask_svcca.cli.sketch:search",
            "List the layers that are most similar to that of a NAME, model/checkpoint/layer, among SKETCHES.",
        ),
        Deferred("query", "dask_svcca.cli.query:query", "List pairs of a COMPARISON, the most similar first."),
        Deferred(
            "models",
            "dask_svcca.cli.models:models",
            "List the models of a COMPARISON, each beside each other, the most similar first.",
        ),
        Deferred(
            "judge",
            "dask_svcca.cli.judge:judge",
            "Judge the measures of a COMPARISON: what each finds that it should find, beside chance.",
        ),
        Deferred("plot", "dask_svcca.cli.plot:plot", "Draw a figure of a COMPARISON, finished or not."),
        Deferred(
            "explore",
            "dask_svcca.cli.explore:explore",
            "Walk through one COMPARISON or several in the browser: models, then checkpoints, then layers, then one "
            "pair.",
        ),
        Deferred(
            "report",
            "dask_svcca.cli.explore:report",
            "Write what explore shows of a COMPARISON into one page, which needs neither a server nor a network.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: dask-svcca demo",
)
@click.version_option(package_name="dask-svcca", prog_name="dask-svcca")
def program() -> None:
    """Compare every layer of every checkpoint of a model zoo with every other: SVCCA on Dask and zarr."""

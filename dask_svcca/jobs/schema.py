"""What a job file may say, and its errors by line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from dask_svcca.coarse.guidance import Guidance, TileOrder
from dask_svcca.devices.names import parse_device
from dask_svcca.errors import InvalidJobError, did_you_mean
from dask_svcca.measures import split_names
from dask_svcca.plan.parameters import Keep, Match, Parameters, Precision, make_parameters
from dask_svcca.plan.selection import SELECTIONS, nearest_of
from dask_svcca.readings.choose import Convolutional, Sequential

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORKERS_WITHIN = 600.0
"""Seconds in which the first worker has to be there: a queue may take that long."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Strict):
    """Files of certificates, for a scheduler that asks for them."""

    ca_file: str
    cert: str
    key: str


class Adapt(_Strict):
    """Between how many workers a cluster grows and shrinks."""

    minimum: int = Field(default=0, ge=0)
    maximum: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is more than maximum {self.maximum}")
        return self


class LocalCluster(_Strict):
    """Processes on the machine that runs the job."""

    workers: int | None = Field(default=None, ge=1)
    memory: str | None = None
    workers_within: float = Field(default=WORKERS_WITHIN, gt=0)


class RunningCluster(_Strict):
    """A scheduler that is there already."""

    address: str
    tls: Tls | None = None
    workers_within: float = Field(default=WORKERS_WITHIN, gt=0)


class ClusterClass(_Strict):
    """A cluster that a class starts: of a batch system, of Kubernetes, of machines reached by SSH."""

    name: str = Field(alias="class", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")
    options: dict[str, Any] = Field(default_factory=dict)
    scale: int | None = Field(default=None, ge=1)
    adapt: Adapt | None = None
    workers_within: float = Field(default=WORKERS_WITHIN, gt=0)

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if (self.scale is None) == (self.adapt is None):
            raise ValueError("a class of clusters has either scale, a number of workers, or adapt, minimum and maximum")
        return self


def _kind(value: Any) -> str:
    if isinstance(value, ClusterClass) or (isinstance(value, dict) and "class" in value):
        return "class"
    return (
        "address" if isinstance(value, RunningCluster) or (isinstance(value, dict) and "address" in value) else "local"
    )


Cluster = Annotated[
    Annotated[LocalCluster, Tag("local")]
    | Annotated[RunningCluster, Tag("address")]
    | Annotated[ClusterClass, Tag("class")],
    Discriminator(_kind),
]


class JobFile(_Strict):
    """A comparison and where it runs, as a job file says it.

    Attributes
    ----------
    zoo, comparison, subspaces, sketches : str
        Places; paths are absolute here.
    measures, variance, conv, match, sequence, positions, spatial_size, mask, precision, keep, pairs, order, drop_left
        As for `dask_svcca.compare`. A ``mask`` of false declines the zoo's; by default its only one is used.
    device : str
        What the workers compute with, as for `dask_svcca.compare`; not stored with the parameters.
    preview : bool
        Whether the job begins with estimates of all pairs, which values then replace.
    cluster : LocalCluster, RunningCluster or ClusterClass

    Examples
    --------
    >>> job = JobFile(zoo="zoo.zarr", comparison="comparison.zarr", cluster="tcp://10.0.0.1:8786")
    >>> job.cluster.address, job.parameters.variance
    ('tcp://10.0.0.1:8786', 0.99)
    """

    zoo: str
    comparison: str
    measures: tuple[str, ...] = ("svcca",)
    variance: float | None = 0.99
    conv: Convolutional = "dft"
    match: Match = "crop"
    sequence: Sequential = "mean"
    positions: str = "all"
    spatial_size: tuple[int, ...] | None = None
    mask: str | Literal[False] | None = None
    precision: Precision = "float32"
    keep: tuple[Keep, ...] = ()
    pairs: str = "all"
    preview: bool = False
    order: TileOrder = "stored"
    sketches: str | None = None
    subspaces: str | None = None
    drop_left: bool = False
    device: str = "cpu"
    cluster: Cluster = Field(default_factory=LocalCluster)

    @field_validator("measures", "keep", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return split_names(value) if isinstance(value, str) else value

    @field_validator("variance", mode="before")
    @classmethod
    def _all_of_it(cls, value: Any) -> Any:
        return None if value == "none" else value

    @field_validator("cluster", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {} if value == "local" else {"address": value}
        return value

    @field_validator("device", mode="before")
    @classmethod
    def _named(cls, value: Any) -> str:
        return parse_device(value)

    @field_validator("pairs")
    @classmethod
    def _known(cls, value: str) -> str:
        if nearest_of(value) is None and value not in SELECTIONS and not value.startswith("between "):
            raise ValueError(
                f"pairs is one of {', '.join(map(repr, SELECTIONS))}; got {value!r}{did_you_mean(value, SELECTIONS)}"
            )
        return value

    @property
    def options(self) -> dict[str, Any]:
        """Parameters of the comparison, but for measures and mask, as `dask_svcca.plan.parameters` takes them."""
        names = ("variance", "conv", "match", "sequence", "positions", "spatial_size", "precision", "keep")
        return {name: getattr(self, name) for name in names}

    @property
    def where(self) -> dict[str, Any]:
        """Which pairs, and where subspaces are, as `dask_svcca.run.compare.run_comparison` takes them."""
        return {"pairs": self.pairs, "subspaces": self.subspaces, "drop_left": self.drop_left}

    @property
    def guidance(self) -> Guidance:
        """What of the comparison goes by sketches."""
        return Guidance.of(
            self.pairs, self.comparison, self.sketches, self.parameters, preview=self.preview, order=self.order
        )

    @property
    def parameters(self) -> Parameters:
        """Parameters of the comparison, the mask as it is named."""
        return make_parameters(self.measures, **self.options, mask=self.mask or None)


def read_job(path: str | os.PathLike[str]) -> JobFile:
    """Read a job file, and check it.

    Parameters
    ----------
    path : path
        A YAML file. Paths in it are relative to its folder; ``~`` is the home folder; URLs stay as they are.

    Raises
    ------
    InvalidJobError
        Where it cannot be read, or says what is not valid: with line, key and what may stand there.
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidJobError(f"the job file {str(path)!r} cannot be read ({error})") from None
    return parse_job(text, str(path), place.absolute().parent)


def parse_job(text: str, name: str, folder: Path) -> JobFile:
    r"""A job from the text of its file.

    Parameters
    ----------
    text, name : str
    folder : Path
        To which paths are relative.

    Examples
    --------
    >>> parse_job("zoo: z.zarr\ncomparison: c.zarr\nconv: dtf", "job.yaml", Path("/data"))
    Traceback (most recent call last):
    dask_svcca.errors.InvalidJobError: job.yaml, line 3: conv is 'dft', 'mean', 'positions' or 'flatten'; got 'dtf'...
    """
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = name if mark is None else f"{name}, line {mark.line + 1}"
        raise InvalidJobError(f"{where}: this is not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(value, dict):
        raise InvalidJobError(f"{name}: a job is keys and values, such as 'zoo: zoo.zarr'; got {type(value).__name__}")
    lines = dict(_lines(tree, name))
    try:
        job = JobFile.model_validate(value)
    except ValidationError as error:
        raise InvalidJobError("\n".join(_sentences(error, name, lines))) from None
    try:
        _ = job.parameters, job.guidance
    except ValueError as error:
        raise InvalidJobError(f"{name}, line {lines.get(_named_in(str(error)), 1)}: {error}") from None
    return job.model_copy(update=_places(job, folder))


def _lines(node: Any, name: str, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Line of each key of a document; a key that stands twice is refused."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line, text = key.start_mark.line + 1, str(key.value)
            if text in seen:
                raise InvalidJobError(f"{name}, line {line}: {text!r} stands on line {seen[text]} already")
            seen[text] = line
            yield (*path, text), line
            if len(path) < 8:
                yield from _lines(value, name, (*path, text))


def _sentences(error: ValidationError, name: str, lines: dict[tuple[str, ...], int]) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        # Of the kinds of clusters, the one that is meant; it stands in no file.
        place = [str(part) for part in problem["loc"]]
        if place[:1] == ["cluster"] and place[1:2] in (["local"], ["address"], ["class"]):
            del place[1]
        known = next((place[:size] for size in range(len(place), 0, -1) if tuple(place[:size]) in lines), [])
        where = f"{name}, line {lines[tuple(known)]}" if known else name
        yield f"{where}: {_sentence(problem, place)}"


def _sentence(problem: Any, place: Sequence[str]) -> str:
    key, given = ".".join(place), problem.get("input")
    if problem["type"] == "extra_forbidden":
        names = _keys_of(place[:-1])
        return f"{key!r} is not a key of a job{did_you_mean(place[-1], names) or '; there are ' + ', '.join(names)}"
    if problem["type"] == "missing":
        return f"{key!r} is missing: every job has it"
    if problem["type"] == "literal_error":
        allowed = problem["ctx"]["expected"]
        choices = [part.strip("'") for part in allowed.replace(" or ", ", ").split(", ")]
        return f"{key} is {allowed}; got {given!r}{did_you_mean(str(given), choices)}"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{key}: {message}; got {given!r}"


def _keys_of(place: Sequence[str]) -> list[str]:
    """Keys that may stand at a place."""
    models: dict[tuple[str, ...], list[type[BaseModel]]] = {
        (): [JobFile],
        ("cluster",): [LocalCluster, RunningCluster, ClusterClass],
        ("cluster", "tls"): [Tls],
        ("cluster", "adapt"): [Adapt],
    }
    fields = [model.model_fields for model in models.get(tuple(place), [])]
    return list(dict.fromkeys(field.alias or name for each in fields for name, field in each.items()))


def _named_in(sentence: str) -> tuple[str, ...]:
    """The key that a sentence about parameters begins with, perhaps behind an article."""
    words = (word.split("=", 1)[0] for word in sentence.split(" ", 2)[:2])
    return (next((word for word in words if word in JobFile.model_fields), "measures"),)


def _places(job: JobFile, folder: Path) -> dict[str, str]:
    given = {name: getattr(job, name) for name in ("zoo", "comparison", "subspaces", "sketches")}
    return {name: _place(value, folder) for name, value in given.items() if value is not None}


def _place(value: str, folder: Path) -> str:
    if "://" in value:
        return value
    return os.path.abspath(folder / Path(value).expanduser())  # noqa: PTH100 - '..' goes, links stay

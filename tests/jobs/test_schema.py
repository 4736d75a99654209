"""Job files: what they may say, and errors by line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from dask_svcca.errors import InvalidJobError
from dask_svcca.jobs.schema import ClusterClass, LocalCluster, RunningCluster, parse_job, read_job
from dask_svcca.plan.parameters import Parameters

LEAST = "zoo: zoo.zarr\ncomparison: comparison.zarr\n"


def parsed(text: str):
    return parse_job(text, "job.yaml", Path("/data/here"))


def test_parse_job__takes_what_compare_takes() -> None:
    job = parsed(
        LEAST
        + "measures: [svcca, 'gulp(lambda=0.1)']\nvariance: 0.9\nconv: positions\nspatial_size: [4, 4]\n"
        + "positions: random 3\nprecision: float64\nkeep: correlations\npairs: between a 'b c'\nsubspaces: ~/s.zarr\n"
        + "drop_left: true\nmask: false\nsequence: last\nmatch: fold\n"
    )
    assert job.parameters == Parameters(
        measures=("svcca", "gulp(lambda=0.1)"),
        variance=0.9,
        conv="positions",
        spatial_size=(4, 4),
        positions="random 3",
        precision="float64",
        keep=("correlations",),
        sequence="last",
        match="fold",
    )
    assert job.pairs == "between a 'b c'"
    assert job.drop_left
    assert job.mask is False
    assert job.subspaces == str(Path("~/s.zarr").expanduser())


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("zoo.zarr", "/data/here/zoo.zarr"),
        ("../zoo.zarr", "/data/zoo.zarr"),
        ("/elsewhere/zoo.zarr", "/elsewhere/zoo.zarr"),
        ("s3://bucket/zoo.zarr", "s3://bucket/zoo.zarr"),
    ],
)
def test_parse_job__paths_are_relative_to_the_file(place: str, meant: str) -> None:
    assert parsed(f"zoo: {place}\ncomparison: c.zarr").zoo == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", LocalCluster()),
        ("cluster: local", LocalCluster()),
        ("cluster: {workers: 2, memory: 4GiB}", LocalCluster(workers=2, memory="4GiB")),
        ("cluster: tcp://10.0.0.1:8786", RunningCluster(address="tcp://10.0.0.1:8786")),
        (
            "cluster: {class: dask_jobqueue.SLURMCluster, options: {cores: 1}, scale: 4}",
            ClusterClass(**{"class": "dask_jobqueue.SLURMCluster", "options": {"cores": 1}, "scale": 4}),
        ),
    ],
)
def test_parse_job__clusters(text: str, meant: object) -> None:
    assert parsed(LEAST + text).cluster == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("measure: svcca", "job.yaml, line 3: 'measure' is not a key of a job. Did you mean 'measures'?"),
        ("banana: 1", "line 3: 'banana' is not a key of a job; there are zoo, comparison, measures"),
        ("preview: true", "line 3: a preview has estimates of 'cka' alone, and 'svcca' is asked for"),
        ("preview: perhaps", "line 3: preview: input should be a valid boolean, .*; got 'perhaps'"),
        ("conv: dtf", "line 3: conv is 'dft', 'mean', 'positions' or 'flatten'; got 'dtf'. Did you mean 'dft'?"),
        ("variance: 1.5", "line 3: variance is the share of the variance to keep, above 0 and up to 1; got 1.5"),
        ("device: 3", "line 3: device is 'cpu', 'cuda', .*; got 3"),
        ("device:", "line 3: device is 'cpu', 'cuda', .*; got None"),
        ("variance: much", "line 3: variance: input should be a valid number"),
        ("\nmeasures: [svca]", "line 4: "),
        ("measures: [svca]", "Did you mean 'svcca'?"),
        ("pairs: finale", "line 3: pairs is one of 'all', .* got 'finale'. Did you mean 'final'?"),
        ("pairs: all\npairs: final", "line 4: 'pairs' stands on line 3 already"),
        ("cluster: {adress: tcp://a:1}", "line 3: 'cluster.adress' is not a key of a job. Did you mean 'address'?"),
        ("cluster: {workers: 0}", "line 3: cluster.workers: input should be greater than or equal to 1; got 0"),
        ("cluster: {class: a.B}", "line 3: a class of clusters has either scale, a number of workers, or adapt"),
        ("cluster: {class: B, scale: 1}", "line 3: cluster.class: "),
        ("cluster:\n  class: a.B\n  adapt: {minimum: 3, maximum: 2}", "line 5: minimum 3 is more than maximum 2"),
        ("cluster: {address: 'tls://a:1', tls: {ca_file: a}}", "line 3: 'cluster.tls.cert' is missing"),
        ("keep: everything", "line 3: keep"),
        ("keep: frequencies\nconv: mean", "line 3: keep='frequencies' needs conv='dft'"),
        ("conv: [", "this is not YAML"),
        ("conv: !!python/object/apply:os.system ['true']", "this is not YAML"),
    ],
)
def test_parse_job__errors_name_line_key_and_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(InvalidJobError, match=said):
        parsed(LEAST + text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zoo: z.zarr", "job.yaml: 'comparison' is missing"),
        ("- zoo", "keys and values"),
        ("", "keys and values"),
        ("42", "keys and values"),
    ],
)
def test_parse_job__a_file_that_is_not_a_job(text: str, said: str) -> None:
    with pytest.raises(InvalidJobError, match=said):
        parsed(text)


def test_read_job__a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidJobError, match="cannot be read"):
        read_job(tmp_path / "job.yaml")
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidJobError, match="cannot be read"):
        read_job(tmp_path / "job.yaml")

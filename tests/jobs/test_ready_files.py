"""The files under ``jobs/`` are valid as they are."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from dask_jobqueue.slurm import SLURMJob

from dask_svcca.jobs.schema import ClusterClass, read_job

JOBS = Path(__file__).parents[2] / "jobs"
FILES = sorted([*JOBS.glob("*.yaml"), JOBS / "kubernetes" / "job.yaml"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_job_file__is_valid(path: Path) -> None:
    assert read_job(path).measures == ("svcca", "cka")


def test_job_files__are_named_in_the_readme() -> None:
    text = (JOBS / "README.md").read_text()
    for path in JOBS.iterdir():
        if path.name not in {"README.md", "__pycache__"}:
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text, path.name


def test_slurm_file__has_a_class_and_adapts() -> None:
    cluster = read_job(JOBS / "slurm.yaml").cluster
    assert isinstance(cluster, ClusterClass)
    assert cluster.adapt is not None


@pytest.mark.parametrize("name", ["gpu.yaml", "slurm-gpu.yaml"])
def test_gpu_file__computes_on_gpus(name: str) -> None:
    assert read_job(JOBS / name).device == "cuda"


def test_slurm_gpu_file__asks_for_a_gpu_and_tells_the_scheduler() -> None:
    cluster = read_job(JOBS / "slurm-gpu.yaml").cluster
    assert isinstance(cluster, ClusterClass)
    options = {name: value for name, value in cluster.options.items() if name != "scheduler_options"}
    script = SLURMJob(scheduler="tcp://127.0.0.1:8786", name="one", **options).job_script()
    assert "#SBATCH --gres=gpu:1" in script
    assert "--resources GPU=1" in script


@pytest.mark.parametrize(
    "manifest",
    list(yaml.safe_load_all((JOBS / "kubernetes" / "comparison.yaml").read_text())),
    ids=lambda one: one["kind"],
)
def test_kubernetes__manifests_follow_the_schema(manifest: dict[str, object]) -> None:
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifest, "spec": {"replica": 1}}, "1.31", strict=True)

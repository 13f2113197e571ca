"""The files that docs/archive.md shows for clusters are such files, and their commands are ours."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from resam_runtime.cli import run

from .pages import commands, example

PAGE = "docs/archive.md"
yaml = pytest.importorskip("yaml")


def parsed(words: list[str]) -> dict[str, Any]:
    """A command line of resam-run as its own parser takes it."""
    assert words[0] == "resam-run"
    return run.make_context("resam-run", words[1:]).params


def test_urls_lists_and_catalogues_stay_what_they_are() -> None:
    [line] = [line for line in commands(PAGE) if "s3://" in line.text]
    given = parsed(line.words)["images"]
    assert [type(one) for one in given] == [str, str, str]
    assert given[2].startswith("@")


def test_the_kubernetes_job_gives_each_index_a_shard() -> None:
    job = yaml.safe_load(example(PAGE, "job.yaml"))
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    count = job["spec"]["completions"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    outs = set()
    for index in range(count):
        words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in container["command"]]
        options = parsed(words)
        assert (options["shard"], options["resume"]) == ((index, count), True)
        outs.add(options["out"])
    assert len(outs) == count
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}


def test_the_slurm_array_gives_each_task_a_shard(tmp_path: Path) -> None:
    script = example(PAGE, "array.sbatch")
    first, last = map(int, re.findall(r"^#SBATCH --array=(\d+)-(\d+)$", script, re.MULTILINE)[0])
    shown = re.sub(r"^resam-run", "printf '%s\\\\0' resam-run", script, flags=re.MULTILINE)
    for task in (first, last):
        environment = {"SLURM_CPUS_PER_TASK": "4", "SLURM_ARRAY_TASK_ID": str(task), "PATH": "/usr/bin:/bin"}
        said = subprocess.run(["bash", "-c", shown], env=environment, capture_output=True, text=True, check=True)
        options = parsed(said.stdout.rstrip("\0").split("\0"))
        assert (options["shard"], options["threads"]) == ((task, last + 1), 4)
    assert first == 0


def test_the_ray_job_runs_on_its_own_cluster() -> None:
    job = yaml.safe_load(example(PAGE, "ray-job.yaml"))
    assert job["kind"] == "RayJob"
    options = parsed(shlex.split(job["spec"]["entrypoint"]))
    assert options["ray"] == "auto"
    [group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["containers"]

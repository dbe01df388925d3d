"""The files for clusters that docs/cluster.md points to are what their programs read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
FILES = sorted((DOCS / "examples" / "cluster").iterdir())


def test_every_file_is_on_the_page_and_none_is_missing() -> None:
    page = (DOCS / "cluster.md").read_text(encoding="utf-8")
    assert {DOCS / link for link in re.findall(r"\((examples/cluster/[^)]+)\)", page)} == set(FILES)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".sbatch"], ids=lambda path: path.name)
def test_batch_scripts_are_bash_with_options_before_the_first_command(path: Path) -> None:
    """sbatch reads no `#SBATCH` line behind a command."""
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max(at for at, line in enumerate(lines) if line.startswith("#SBATCH "))
    assert all(line.startswith("#") for line in lines[: last + 1])


def test_batch_scripts_pass_shellcheck() -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed")
    scripts = [str(path) for path in FILES if path.suffix == ".sbatch"]
    done = subprocess.run([program, *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_kubernetes_job_mounts_volumes_that_it_has() -> None:
    job: Any = yaml.safe_load((DOCS / "examples/cluster/kubernetes-job.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")  # all that a Job takes
    (container,) = pod["containers"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert container["command"][container["command"].index("--nproc_per_node") + 1] == str(gpus)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_kubernetes_job_fits_the_schema_of_kubernetes() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    job = yaml.safe_load((DOCS / "examples/cluster/kubernetes-job.yaml").read_text(encoding="utf-8"))
    validator.validate(job, validator.latest_version(), strict=True)

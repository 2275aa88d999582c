"""The wheel holds all that `xdiff reconstruct` needs, and does it where no checkout is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

from xdiff.models import SHIPPED
from xdiff.volumes import read_volume

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a build folder beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("xdiff", "baselines"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    run([sys.executable, "-m", "pip", "wheel", *options, str(source)], folder)
    (found,) = folder.glob("xdiff-*.whl")
    return found


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`xdiff`, installed into an environment of its own, which borrows other packages from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    run([sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-deps", "--no-index", str(wheel)], folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # after its own, so that its own xdiff is taken
    return folder / "bin" / "xdiff"


def run(command: list[str], folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_packages_weights_and_an_example(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "xdiff", "baselines"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    wanted = {name for name in tracked.stdout.split() if Path(name).suffix != ".md" or "weights" in name}
    assert wanted, "git tracks no file of the packages"
    assert wanted - names == set()
    assert not [name for name in names if name.startswith(("tests", "workflow"))]


@pytest.mark.skipif(not (SHIPPED / "brain-t1").exists(), reason="brain-t1 is not shipped")
def test_an_installed_wheel_reconstructs_the_example(program: Path, tmp_path: Path) -> None:
    where = run([str(program.with_name("python")), "-c", "import xdiff; print(xdiff.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(program.parents[1])
    assert "brain-t1" in run([str(program), "models"], tmp_path)
    example = Path(where).parent / "examples" / "slice.nii.gz"
    # a phantom is none of the heads that the model knows
    options = ["--model", "brain-t1", "--at", "18", "--force", "--out", "volume.nii.gz"]
    run([str(program), "reconstruct", "--given", str(example), *options], tmp_path)
    volume, sidecar = read_volume(tmp_path / "volume.nii.gz"), json.loads((tmp_path / "volume.json").read_text())
    assert volume.shape == (80, 96, 80) and volume.array.std() > 0
    assert (sidecar["synthetic"], sidecar["model"]["name"]) == (True, "brain-t1")

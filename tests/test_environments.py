"""Environments agree: constraints.txt pins all that is installed, conda files and containers ask for what pyproject asks for."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / "workflow/envs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = set(map(canonicalize_name, re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)))
INSTALLED = ("workflow", "segment", "dev")  # what `make install` does
CONDA_NAMES = {"pytorch": "torch", "ismrmrd-python": "ismrmrd"}  # where conda-forge's is not PyPI's
DECLARED = {
    canonicalize_name(r.name): r
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for r in map(Requirement, texts)
}
CONDA_FILES = sorted(ENVS.glob("*.yaml"))
# file of an environment -> files of rules that run in it
RULES = {path.name: [] for path in CONDA_FILES}
for smk in sorted((ROOT / "workflow/rules").glob("*.smk")):
    for name in set(re.findall(r'"\.\./envs/([\w.]+)"', smk.read_text())):
        RULES.setdefault(name, []).append(smk)


def conda_packages(path: Path) -> dict[str, str]:
    """PyPI's name -> range, of conda's and of pip's packages."""
    listed = yaml.safe_load(path.read_text())["dependencies"]
    texts = [text for entry in listed for text in (entry["pip"] if isinstance(entry, dict) else [entry])]
    pairs = [re.fullmatch(r"([\w.-]+)\s*(.*)", text).groups() for text in texts]
    return {canonicalize_name(CONDA_NAMES.get(name, name)): wanted for name, wanted in pairs}


# The lock ---------------------------------------------------------------------------------------------------------


def needed() -> set[str]:
    """Names of all that `make install` brings on this system, through all levels."""
    texts = [text for extra in INSTALLED for text in PROJECT["optional-dependencies"][extra]]
    todo = list(map(Requirement, PROJECT["dependencies"] + texts))
    found: dict[str, set[str]] = {}  # name -> extras that were followed
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), {"", *requirement.extras}
        if extras <= found.get(name, set()):
            continue
        found[name] = found.get(name, set()) | extras
        for below in map(Requirement, importlib.metadata.requires(name) or []):
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(below)
    return set(found)


def test_constraints_pin_everything_that_is_installed_on_every_level() -> None:
    try:
        names = needed()
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"not all of {INSTALLED} is installed here ({error})")
    assert len(names) > 100
    # hashes are not locked: TORCH_INDEX chooses another build of the same version of torch
    builds = {n for n in names if n.startswith(("nvidia-", "cuda-", "triton"))}
    assert sorted(names - builds - PINNED) == []


# Conda ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONDA_FILES, ids=lambda path: path.stem)
def test_conda_files_ask_for_the_ranges_of_pyproject(path: Path) -> None:
    for name, wanted in conda_packages(path).items():
        if name == "python":
            assert Requirement(f"x{PROJECT['requires-python']}").specifier.contains(wanted.removeprefix("="))
        elif name != "pip":
            assert wanted == str(DECLARED[name].specifier), f"{path.name}: {name}"


def test_every_rule_has_an_environment_that_is_there_and_every_environment_a_rule() -> None:
    assert set(RULES) == {path.name for path in CONDA_FILES} and all(RULES.values())
    for smk in (ROOT / "workflow/rules").glob("*.smk"):
        text = smk.read_text()
        assert len(re.findall(r"^    conda:$", text, re.MULTILINE)) == len(re.findall(r"^    shell:$", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(RULES))
def test_an_environment_has_what_the_modules_of_its_rules_load(name: str) -> None:
    run = {module for smk in RULES[name] for module in re.findall(r"python -m ([\w.]+)", smk.read_text())}
    run |= {"xdiff.train"} if any(smk.name == "train.smk" for smk in RULES[name]) else set()  # its launcher is a parameter
    modules = {f"{m}.__main__" if (ROOT / m.replace(".", "/")).is_dir() else m for m in run}
    code = f"import {', '.join(sorted(modules))}, sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    distributions = importlib.metadata.packages_distributions()
    loaded = {canonicalize_name(d) for top in done.stdout.split() for d in distributions.get(top, [])}
    assert "pandas" in loaded
    # what pyproject names itself; the needs of these are conda's business
    assert sorted(loaded & set(DECLARED) - set(conda_packages(ENVS / name))) == []


# Containers -------------------------------------------------------------------------------------------------------

DOCKER, APPTAINER = (ENVS / "Dockerfile").read_text(), (ENVS / "xdiff.def").read_text()


def test_both_containers_have_the_python_of_the_constraints() -> None:
    (docker,) = re.findall(r"^FROM (\S+)$", DOCKER, re.MULTILINE)
    (apptainer,) = re.findall(r"^From: (\S+)$", APPTAINER, re.MULTILINE)
    (python,) = re.findall(r"made with \(Python (\S+),", (ROOT / "constraints.txt").read_text())
    assert docker == apptainer and docker.startswith(f"python:{python}-slim")


@pytest.mark.parametrize("text", [DOCKER, APPTAINER], ids=["docker", "apptainer"])
def test_containers_install_by_make_and_run_the_snakefile(text: str) -> None:
    assert 'make -C /xdiff install TORCH_INDEX="' in text
    assert re.search(r"^install: ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.search(r"^BIN := \.venv/bin$", (ROOT / "Makefile").read_text(), re.MULTILINE) and "/xdiff/.venv/bin:$PATH" in text
    assert "/xdiff/Snakefile" in text and (ROOT / "Snakefile").exists()
    for path in re.findall(r"workflow/[\w./-]+", text):
        assert (ROOT / path).exists(), path


def test_an_image_carries_no_results_no_history_and_no_environment() -> None:
    lines = (ENVS / "Dockerfile.dockerignore").read_text().splitlines()
    kept_out = {line.strip("/") for line in lines if line and not line.startswith("#")}
    assert kept_out >= {".git", ".venv*", ".snakemake", "raw", "results/*", "!results/reference"}

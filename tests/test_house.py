"""The repository's own promises: what is tracked and how big, which versions are pinned, what make offers, and how
the two shell scripts behind `make install` and `make demo` behave when something is missing or was interrupted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
TOP_LEVEL = {"Snakefile", "config.yaml", "README.md", "workflow", "xdiff", "baselines", "results", "tests"}
METADATA = {
    *("pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "CITATION.cff", "CHANGELOG.md"),
    *(".ci", ".editorconfig", ".gitattributes", ".gitignore", ".pre-commit-config.yaml"),
    ".snakemake-workflow-catalog.yml",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = [
    "workflow/scripts/install.sh",
    "workflow/scripts/demo.sh",
    "workflow/scripts/gpu.sh",
    "workflow/scripts/ship.sh",
    ".ci/run",
]


# What git tracks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Tracked files, relative to the root; a source archive without .git has none to ask about."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]
    assert files, f"git tracks no file in {ROOT}"
    return files


@pytest.mark.parametrize(
    ("folder", "limit_mib"),
    [(".", 24), ("xdiff/weights", 12), ("results/reference", 8)],
    ids=["tree", "weights", "ref"],
)
def test_tracked_files_stay_small(tracked: list[Path], folder: str, limit_mib: int) -> None:
    size_bytes = sum((ROOT / file).stat().st_size for file in tracked if file.is_relative_to(folder))
    assert size_bytes < limit_mib * MIB, f"{folder}: {size_bytes / MIB:.1f} MiB tracked, expected < {limit_mib}"


def test_top_level_holds_only_what_was_agreed(tracked: list[Path]) -> None:
    found = {file.parts[0] for file in tracked}
    assert found <= TOP_LEVEL | METADATA
    assert found >= METADATA


def test_only_reference_results_are_tracked(tracked: list[Path]) -> None:
    results = [file for file in tracked if file.is_relative_to("results")]
    assert [file for file in results if not file.is_relative_to("results/reference")] == []


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("results/metrics/all.tsv", True),
        ("results/reference/demo/metrics.tsv.gz", False),
        ("xdiff/data/store.py", False),  # a bare `data/` in .gitignore would have swallowed the subpackage
        ("xdiff/weights/demo/model.safetensors", False),
        (".venv/bin/python", True),
        (".snakemake/log/x.log", True),
        ("torch.whl", True),
    ],
)
def test_gitignore_keeps_outputs_out_and_sources_in(tracked: list[Path], path: str, ignored: bool) -> None:
    code = subprocess.run(["git", "check-ignore", "--no-index", "-q", path], cwd=ROOT).returncode
    assert code == (0 if ignored else 1)


# Versions ---------------------------------------------------------------------------------------------------------


def _pins() -> dict[str, str]:
    """Canonical name -> version, for each line of constraints.txt."""
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, f"constraints.txt: {line!r}, expected NAME==VERSION without a local part"
        name = canonicalize_name(match[1])
        assert name not in pins, f"constraints.txt: {name} twice"
        pins[name] = match[2]
    return pins


def _direct_dependencies() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(text) for text in PROJECT["dependencies"] + [text for extra in extras for text in extra]]


@pytest.mark.parametrize("requirement", _direct_dependencies(), ids=str)
def test_each_direct_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = _pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"constraints.txt has no line for {requirement.name}"
    assert requirement.specifier.contains(version), f"{requirement.name}=={version} is outside {requirement.specifier}"


def test_constraints_leave_the_build_of_torch_and_the_project_itself_open() -> None:
    assert [name for name in _pins() if name.startswith(("nvidia-", "triton")) or name == PROJECT["name"]] == []


def test_citation_names_the_packaged_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert (ROOT / "LICENSE").read_text().split("\n")[1].strip() == "Apache License"


# Settings ---------------------------------------------------------------------------------------------------------


def test_catalog_entry_points_to_a_profile_that_exists() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda", "report"}
    option, profile = usage["mandatory-flags"]["flags"].split()
    assert option == "--profile"
    assert (ROOT / profile / "config.yaml").is_file()


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_every_entry_of_a_profile_is_explained_and_known_to_snakemake(profile: str) -> None:
    from snakemake.cli import get_argument_parser

    text = (ROOT / f"workflow/profiles/{profile}/config.yaml").read_text()
    entries = yaml.safe_load(text)
    for name in entries:
        assert re.search(rf"^#.*\n{name}:", text, flags=re.MULTILINE), f"profile: {name} has no comment above it"
    known = {option for action in get_argument_parser()._actions for option in action.option_strings}
    assert [name for name in entries if f"--{name}" not in known] == []


# make -------------------------------------------------------------------------------------------------------------

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _plan(target: str) -> str:
    """The commands that make would run for the target, without running any."""
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", target]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@needs_make
@pytest.mark.parametrize("target", ["install", "demo", "test", "test-slow", "lint"])
def test_each_target_builds_the_environment_first(target: str) -> None:
    assert _plan(target).splitlines()[0].endswith("bash workflow/scripts/install.sh")


@needs_make
@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", "workflow/scripts/demo.sh"),
        ("test", '-m "not slow"'),
        ("test-slow", "-m slow"),
        ("lint", "ruff check"),
        ("lint", "ruff format --check"),
        ("lint", "snakefmt --check"),
        ("lint", "snakemake --lint"),
        ("clean-venv", "rm -rf .venv"),
    ],
)
def test_target_runs(target: str, command: str) -> None:
    assert command in _plan(target)


@needs_make
def test_help_lists_every_phony_target() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    command = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^make (\S+)", listed, flags=re.MULTILINE) == phony[1].split()


# The scripts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_strict_bash(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert "\nset -euo pipefail\n" in (ROOT / script).read_text()
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def _write_program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _copy_script(name: str, root: Path) -> Path:
    target = root / "workflow/scripts" / name
    target.parent.mkdir(parents=True)
    shutil.copy(ROOT / "workflow/scripts" / name, target)
    return target


def test_install_says_which_python_it_needs_where_all_are_too_old(tmp_path: Path) -> None:
    script = _copy_script("install.sh", tmp_path)
    old = tmp_path / "bin/python3"
    _write_program(old, "exit 1")  # what the version check ends with on Python 3.9
    result = subprocess.run(["bash", script], env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"no Python >= 3.11 among: {old}" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_install_pins_torch_in_both_runs_and_takes_it_alone_from_the_index(tmp_path: Path) -> None:
    script = _copy_script("install.sh", tmp_path)
    _write_program(tmp_path / ".venv/bin/python", f'case "$1" in -c) exit 0 ;; esac\necho "$*" >> {tmp_path}/calls')
    env = {**os.environ, "INSTALLER": "pip", "TORCH_INDEX": "https://index.example/cu"}
    subprocess.run(["bash", script], env=env, check=True, capture_output=True)
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.endswith("--no-deps -c constraints.txt --index-url https://index.example/cu torch torchvision")
    assert second.endswith("-c constraints.txt -e .[workflow,segment,dev]")


Demo = Callable[..., tuple[subprocess.CompletedProcess, list[str]]]


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    """Runs demo.sh in a folder whose snakemake only notes its arguments and ends with the code asked for."""
    script = _copy_script("demo.sh", tmp_path)
    (tmp_path / "results").mkdir()
    calls = tmp_path / "calls"
    _write_program(tmp_path / ".venv/bin/snakemake", f'echo "$*" >> {calls}\ncase "$*" in *all) exit $CODE ;; esac')
    _write_program(tmp_path / ".venv/bin/python", f'case "$1" in -c) exec {sys.executable} "$@" ;; esac\necho LEDGER')

    def run(code: int = 0) -> tuple[subprocess.CompletedProcess, list[str]]:
        calls.unlink(missing_ok=True)
        env = {**os.environ, "CODE": str(code), "CORES": "1"}
        result = subprocess.run(["bash", script], env=env, capture_output=True, text=True)
        return result, calls.read_text().splitlines() if calls.exists() else []

    return run


RUN = "--profile workflow/profiles/local --cores 1 -- all"
WRITE_REPORT = "--report results/report/snakemake.zip -- all"


def test_demo_runs_reports_and_says_where_results_are(demo: Demo, tmp_path: Path) -> None:
    result, calls = demo()
    assert calls == [RUN, WRITE_REPORT]
    assert result.returncode == 0
    for line in ["LEDGER", "results/tables/main.md", "results/figures/", "results/report/index.html"]:
        assert line in result.stdout
    assert not (tmp_path / ".snakemake/demo.pid").exists()


def test_second_demo_leaves_an_up_to_date_report_alone(demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "results/report").mkdir()
    (tmp_path / "results/report/snakemake.zip").touch()
    assert demo()[1] == [RUN]
    result = tmp_path / "results/all.tsv"
    result.touch()
    later = (tmp_path / "results/report/snakemake.zip").stat().st_mtime + 2
    os.utime(result, (later, later))
    assert demo()[1] == [RUN, WRITE_REPORT]


def test_failing_demo_ends_with_snakemakes_code_and_prints_no_ledger(demo: Demo, tmp_path: Path) -> None:
    result, calls = demo(code=3)
    assert (result.returncode, calls) == (3, [RUN])
    assert "LEDGER" not in result.stdout
    assert not (tmp_path / ".snakemake/demo.pid").exists()


def test_demo_after_a_killed_one_unlocks_first(demo: Demo, tmp_path: Path) -> None:
    assert demo(code=137)[0].returncode == 137
    assert (tmp_path / ".snakemake/demo.pid").is_file()
    assert demo()[1] == ["--unlock", RUN, WRITE_REPORT]


def test_demo_beside_a_running_one_refuses(demo: Demo, tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()", "snakemake"], stdin=-1, stdout=-1)
    try:
        assert other.stdout is not None and other.stdout.readline()  # it has started: its arguments can be read
        (tmp_path / ".snakemake").mkdir()
        (tmp_path / ".snakemake/demo.pid").write_text(str(other.pid))
        result, calls = demo()
    finally:
        other.kill()
        other.communicate()
    assert (result.returncode, calls) == (1, [])
    assert f"another demo is at work here (process {other.pid})" in result.stderr

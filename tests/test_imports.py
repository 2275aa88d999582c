"""Imports go one way, heavy libraries stay where they are needed, and the harness knows methods by name only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import those before it, never those after it. A package counts as one.
ORDER = (
    *("errors", "whole_file", "budget", "locks", "team", "ledger", "plain", "config", "provenance", "nifti_fields", "volumes"),
    *("planes", "resampling", "rotations", "seen", "stacks", "observation", "checkpoint", "compact", "models"),
    *(
        "kriging",
        "gaussian",
        "data",
        "cuda",
        "registration",
        "gaussian_fit",
        "pose",
        "pose_fit",
        "out_of_distribution",
        "filters",
        "view",
        "gaussian_device",
    ),
    *("resident", "kinds", "local", "local_fit", "augment", "draws", "progress", "loop", "trained", "model"),
    *("train", "sample", "signed_rank", "stats", "metrics", "segment"),
    *("markup", "printed_table", "layout", "posterior_checks", "ablation", "anatomy", "tumours", "fonts", "drawing", "panel"),
    *("captions", "step_sweep", "position_figures", "printed", "calibration", "generalisation", "timing_figure"),
    *("training_curves", "tumour_figures", "tumour_panel", "anatomy_figures", "quality_vs_seconds", "ablation_figure"),
    *("trust", "tables", "figures", "document", "data_page", "page", "report", "overhead", "redraw", "reference"),
    *("clocks", "sizes", "timing", "official_networks", "official", "bench", "unit_costs", "planned", "forecast"),
    *("plan_text", "plan", "given", "placing", "doubts", "preview", "reconstruction", "example", "model_card", "export"),
    *("viewer", "own_grid", "own", "own_evaluate", "cli"),
)
SOURCES = sorted((ROOT / "xdiff").rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports anywhere, inside functions too: xdiff.data.store, torch.nn, ..."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "xdiff").parts[0].removesuffix(".py")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent != ROOT / "xdiff" or p.name != "__init__.py"], ids=named)
def test_imports_go_one_way(path: Path) -> None:
    own = part_of(path)
    assert own in ORDER, f"xdiff/{own} has no place in ORDER yet: say what it may import"
    for name in imported(path):
        if name.startswith("xdiff.") and not name.startswith("xdiff.__"):
            other = name.split(".")[1]
            assert other in ORDER, f"{named(path)} imports {name}"
            assert ORDER.index(other) <= ORDER.index(own), f"{named(path)} imports {name}, which comes after it"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_xdiff_never_imports_baselines(path: Path) -> None:
    assert [name for name in imported(path) if name.split(".")[0] == "baselines"] == []


def test_only_volumes_knows_nibabel() -> None:
    sources = [*SOURCES, *(ROOT / "baselines").glob("*.py")]
    assert [named(p) for p in sources if any(n.split(".")[0] == "nibabel" for n in imported(p))] == ["xdiff/volumes.py"]


def test_the_harness_loads_methods_by_name() -> None:
    for harness in ("train.py", "sample.py"):
        assert not [n for n in imported(ROOT / "xdiff" / harness) if n.startswith(("xdiff.model", "baselines"))]


def test_data_and_the_linear_core_do_not_need_each_other() -> None:
    """gaussian works on arrays; what joins it to a store is gaussian_fit."""
    assert not [n for n in imported(ROOT / "xdiff/gaussian.py") if n.startswith("xdiff.data")]
    for path in (ROOT / "xdiff/data").glob("*.py"):
        assert not [n for n in imported(path) if n.startswith("xdiff.gaussian")], named(path)


LIGHT = [
    "metrics.__main__",
    "metrics.evaluate",
    "metrics.panel",
    "tables",
    "figures",
    "ablation",
    "data_page",
    "report",
    "trust.__main__",
    "stats",
    "layout",
    "planes",
    "gaussian",
    "pose",
]


def test_starting_up_does_not_load_torch_or_monai() -> None:
    """A fresh interpreter: torch costs 1.7 s, monai 5 s, and neither is needed to read a table or draw a figure."""
    modules = [*LIGHT, "config", "data.__main__", "sample", "train", "reconstruction", "models", "export", "cli"]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module('xdiff.' + name)\n"
        "    heavy = {'torch', 'monai', 'baselines'} & set(sys.modules)\n"
        "    assert not heavy, f'xdiff.{name} loads {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""Shipped models by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xdiff import models
from xdiff.checkpoint import write_weights
from xdiff.errors import InputError
from xdiff.models import find_model, main, table


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    described = {"trained_on": "heads", "contrasts": ["T1w"], "shape": [8, 9, 7], "spacing_mm": 2.0}
    for name in ("one", "another"):
        write_weights(folder / name, {"a": np.zeros(2**18)}, {**described, "name": name})
    monkeypatch.setattr(models, "SHIPPED", folder)
    return folder


def test_a_model_is_found_by_name_and_by_path(shipped: Path) -> None:
    assert find_model("one") == shipped / "one"
    assert find_model(shipped / "another") == shipped / "another"


def test_a_folder_goes_before_a_name(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_weights(tmp_path / "one", {}, {})
    assert find_model("one") == Path("one")


@pytest.mark.parametrize("name", ["two", "weights/one/none", "", ".."])
def test_other_names_are_refused_with_those_there_are(shipped: Path, name: str) -> None:
    with pytest.raises(InputError, match="a weights folder, or one of: another, one"):
        find_model(name)


def test_the_table_says_what_each_is(shipped: Path, capsys: pytest.CaptureFixture) -> None:
    found = table(shipped).set_index("name")
    assert list(found.index) == ["another", "one"]
    assert found.loc["one", ["trained_on", "grid", "mib"]].tolist() == ["heads", "8 x 9 x 7 at 2.0 mm", 2.0]
    main([])
    assert "another" in capsys.readouterr().out


def test_damaged_weights_are_not_listed_as_whole(shipped: Path) -> None:
    (shipped / "one" / "weights.safetensors").write_bytes(b"0")
    with pytest.raises(InputError, match="sha256"):
        table(shipped)

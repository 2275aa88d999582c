"""The section `data` of the page: training subjects alone, sections the right way up, and numbers that are those of the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Prepared
from matplotlib.image import imread

from xdiff import data_page
from xdiff.data.split import Split, make_split, patient_of, write_split
from xdiff.data.store import Store
from xdiff.data_page import chosen, histogram, main, middle, montage, sources
from xdiff.page.parts import data
from xdiff.planes import upright


def write(cohort: Prepared, out: Path, split: Split | None = None) -> dict:
    """The summary that `main` writes."""
    write_split(split or cohort.split, out / "split.tsv")
    main(["--data", str(cohort.store.folder), "--split", str(out / "split.tsv"), "--out", str(out)])
    return json.loads((out / "summary.json").read_text())


def coloured(path: Path) -> int:
    """Pixels that are not grey."""
    pixels = imread(path)[..., :3]
    return int((np.ptp(pixels, axis=2) > 0.2).sum())


def test_sections_stand_upright() -> None:
    """A picture of world coordinates: y or z falls from the top, x or y rises from the left."""
    x, y, z = np.indices((3, 4, 5))
    for axis, up, across in ((2, y, x), (1, z, x), (0, z, y)):
        shown_up, shown_across = (upright(a, axis, 1) for a in (up, across))
        assert (np.diff(shown_up, axis=0) == -1).all() and (np.diff(shown_up, axis=1) == 0).all()
        assert (np.diff(shown_across, axis=1) == 1).all() and (np.diff(shown_across, axis=0) == 0).all()


def test_the_section_with_most_of_the_tumour_is_shown_and_else_the_middle() -> None:
    inside = np.zeros((20, 20, 20), bool)
    inside[2:11, 4:17, 6:9] = True
    assert middle(inside, None) == middle(inside, np.zeros(inside.shape, np.uint8)) == [6, 10, 7]
    labels = np.zeros(inside.shape, np.uint8)
    labels[3, 5:9, 7] = 1
    labels[4, 5, 7:9] = 2
    assert middle(inside, labels) == [3, 5, 7]


def test_only_training_subjects_are_opened(heads: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = set()
    for name in ("volume", "foreground", "labels"):
        original = getattr(Store, name)
        monkeypatch.setattr(Store, name, lambda self, s, original=original: opened.add(s) or original(self, s))
    write(heads, tmp_path)
    assert opened == set(heads.split.side("train"))


def test_the_choice_of_subjects_survives_new_ones() -> None:
    many = make_split([(f"sub-{i}", f"sub-{i}", "test" if i % 3 == 0 else "train") for i in range(60)])
    fewer = make_split([row for row in many.table.itertuples(index=False, name=None) if row[0] in chosen(many, 10)])
    assert len(chosen(many, 10)) == 10 and set(chosen(many, 3)) < set(chosen(many, 10)) < set(many.side("train"))
    assert chosen(fewer, 3) == chosen(many, 3) and len(chosen(many, 99)) == 40


def test_labels_are_outlined_where_there_are_some(heads: Prepared, tumours: Prepared, tmp_path: Path) -> None:
    for name, cohort in (("heads", heads), ("tumours", tumours)):
        assert set(write(cohort, tmp_path / name)["captions"]) == {"montage", "histogram"}
    assert coloured(tmp_path / "heads/montage.png") == 0 and coloured(tmp_path / "tumours/montage.png") > 200
    subjects = tumours.split.side("train")
    axes = montage(tumours.store, subjects).axes
    assert len(axes) == len(subjects) * 4 and [ax.get_title() for ax in axes[:4]] == [
        *("T1w, axial", "T2w, axial", "T1w, coronal", "T1w, sagittal")
    ]
    for ax in axes:  # the outline does not widen the picture
        assert sorted(ax.get_ylim())[0] == ax.get_xlim()[0] == -0.5
        assert ax.get_xlim()[1] + 0.5 == ax.images[0].get_array().shape[1]


def test_the_histogram_counts_every_voxel_of_the_foreground(cohort: Prepared) -> None:
    subjects, store = cohort.split.side("train"), cohort.store
    drawn = [ax for ax in histogram(store, subjects).axes if ax.patches]
    assert len(drawn) == len(store.contrasts) and all(len(ax.patches) == len(subjects) + 1 for ax in drawn)
    for c, ax in enumerate(drawn):
        density, edges, _ = ax.patches[-1].get_data()
        values = np.concatenate([store.volume(s)[c][store.foreground(s)] for s in subjects])
        np.testing.assert_allclose(density, np.histogram(values, edges, density=True)[0])
        assert ((values >= edges[0]) & (values <= edges[-1])).mean() > 0.99


def test_numbers_are_those_of_split_and_store(tumours: Prepared, tmp_path: Path) -> None:
    found = write(tumours, tmp_path)
    assert found["sides"] == {s: {"patients": n, "subjects": n} for s, n in (("train", 5), ("val", 1), ("test", 2))}
    assert (found["split"], found["fingerprint"]) == (tumours.split.sha, tumours.store.fingerprint)
    assert found["sources"] == [{"spacing_mm": [2.0] * 3, "smallest": [22, 26, 20], "largest": [22, 26, 20], "subjects": 8}]
    assert found["cropped"] == {"largest": 0.0, "subjects": 0}


def test_rare_spacings_of_sources_share_a_line_and_sizes_are_a_range(heads: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(heads.store.folder, folder)
    for i, subject in enumerate(heads.store.subjects):
        path = folder / "volumes" / f"{subject}.json"
        changed = {"source_shape": [22 + i, 26 - i, 20], "source_spacing_mm": [1, 1, 1 + max(i - 3, 0) / 2]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_page, "MOST_SOURCES", 3)
        lines = sources(Store(folder))
    assert [line["spacing_mm"] for line in lines] == [[1, 1, 1], [1, 1, 1.5], [1, 1, 2], []]
    assert [line["subjects"] for line in lines] == [4, 1, 1, 2] and len(sources(Store(folder))) == 5
    assert [(line["smallest"], line["largest"]) for line in (lines[0], lines[3])] == [
        ([22, 23, 20], [25, 26, 20]),
        ([28, 19, 20], [29, 20, 20]),
    ]


def test_the_section_of_the_page_tells_source_split_and_shapes(tumours: Prepared, tmp_path: Path) -> None:
    write(tumours, tmp_path)
    text = data(tmp_path)
    assert "https://example.org/heads (CC0)" in text and "24 x 28 x 22 voxels of 2 mm, centred" in text
    assert f"<td>train</td><td>5</td><td>5</td><td>{tumours.split.sha[:12]}</td>" in text
    assert "<td>2 x 2 x 2</td><td>22 x 26 x 20</td><td>8</td>" in text
    assert text.count("data:image/png;base64,") == 2 and "no subject has more than 1 %" in text


def test_a_cohort_that_is_all_test_is_described_and_not_shown(heads: Prepared, tmp_path: Path) -> None:
    split = make_split([(s, patient_of(s), "test") for s in heads.store.subjects])
    found = write(heads, tmp_path, split)
    assert found["captions"] == {} and found["sides"]["test"]["subjects"] == 8
    assert not list(tmp_path.glob("*.png")) and "<img" not in data(tmp_path)

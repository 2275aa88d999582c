"""The sampling harness: what a method is shown, what is written, and how an interrupted job goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import probe_methods
import pytest
from conftest import HEAD_AFFINE, Prepared

from xdiff.config import MethodEntry, Sweep
from xdiff.data.split import make_split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.metrics.evaluate import evaluate, parse_given
from xdiff.observation import Point, choose_planes
from xdiff.plain import to_json
from xdiff.sample import other_patient, sample
from xdiff.train import train
from xdiff.volumes import read_volume

CONTRACT = (
    "subject target prediction std trained_on cohort grid method axis indices given contrasts_given K gap_mm policy "
    "thickness_mm steps estimate seed train_seed evaluations seconds peak_mib device weights split norm frame"
).split()
PROBE = MethodEntry("probe_methods", {"level": 0.5, "seed": 4}, estimates=("mean", "sample"), stepped=True)
RETRIEVAL = MethodEntry("baselines.trivial", {"kind": "retrieval"})


def run(cohort: Prepared, entry: MethodEntry, sweep: Sweep, folder: Path, shard: str = "1/1") -> pd.DataFrame:
    """Train and sample below `folder`; the manifest."""
    train("probe", entry, cohort.store, cohort.split, folder / "weights")
    sample(entry, folder / "weights", cohort.store, cohort.split, sweep, folder / "out", shard)
    return read_manifest(folder / "out", shard)


def read_manifest(out: Path, shard: str = "1/1", kind: str = "manifest") -> pd.DataFrame:
    path = out / f"{kind}-{shard.replace('/', '-of-')}.tsv"
    return pd.read_csv(path, sep="\t", dtype={"indices": str}, keep_default_na=False)


def mtimes(out: Path) -> dict[Path, int]:
    return {p.relative_to(out): p.stat().st_mtime_ns for p in sorted((out / "volumes").rglob("*.nii.gz"))}


def test_manifest_has_the_columns_of_the_contract(field: Prepared, tmp_path: Path) -> None:
    sweep = Sweep(K=(1, 3), axis=("axial", "coronal"), estimate=("mean", "sample"), steps=(2, 4), seed=(0, 1))
    table = run(field, PROBE, sweep, tmp_path)
    assert list(table.columns) == CONTRACT
    # `mean` has neither steps nor seed: 2 K x 2 axes x (1 mean + 2 steps x 2 seeds) points of 3 subjects
    assert len(table) == 2 * 2 * (1 + 2 * 2) * 3
    assert set(table["subject"]) == set(field.split.side("test"))
    assert (table.loc[table["estimate"] == "sample", "evaluations"] == 7 * table["steps"][table["estimate"] == "sample"]).all()
    assert set(table["train_seed"]) == {4}
    first = table[(table["K"] == 3) & (table["axis"] == "coronal")].iloc[0]
    given = [int(i) for i in first["indices"].split(",")]
    assert first["given"] == ";".join(f"coronal:{i}" for i in given)
    assert float(first["gap_mm"]) == pytest.approx(np.diff(given).mean() * 4.0, abs=1e-3)
    assert (first["cohort"], first["grid"], first["method"]) == ("gaussian-field", "tiny", "probe")
    assert first["seconds"] > 0 and first["peak_mib"] > 10 and first["split"] == field.split.sha[:12]
    assert all(Path(p).exists() for p in [*table["prediction"], *table["std"]])
    assert table["prediction"].is_unique


def test_method_sees_only_the_observation(heads: Prepared, tmp_path: Path) -> None:
    probe_methods.SEEN.clear()
    table = run(heads, PROBE, Sweep(K=(2,)), tmp_path)
    assert len(probe_methods.SEEN) == len(table) == 2
    allowed = {"planes", "sections", "contrasts", "shape", "spacing_mm", "scale", "frame", "given"}
    for observation, row in zip(probe_methods.SEEN, table.to_dict("records"), strict=True):
        assert {f.name for f in fields(observation)} == allowed
        assert set(vars(observation)) <= allowed | {"_evidence", "distance_mm"}  # the two computed from the others
        # raw intensities: in the store's units, which the hidden volume has set, the scale would betray that volume's own
        volume = heads.store.volume(row["subject"]) * heads.store.scale(row["subject"])[:, None, None, None]
        assert volume.max() > 100
        assert [p.name for p in observation.planes] == row["given"].split(";")
        for plane, section in zip(observation.planes, observation.sections, strict=True):
            assert section.base is None  # no view: the target is not behind it
            np.testing.assert_allclose(section * observation.scale[:, None, None], plane.cut(volume), rtol=1e-6)
        hidden = ~observation.mask
        assert not observation.evidence[:, hidden].any()
        # the scale is the given sections' own, not the volume's
        positive = [volume[c][observation.mask] for c in range(2)]
        expected = [np.percentile(v[v > 0], 99.5) for v in positive]
        np.testing.assert_allclose(observation.scale, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["nan", "wrong_shape", "wrong_std"])
def test_bad_volume_of_a_method_is_refused(field: Prepared, tmp_path: Path, kind: str) -> None:
    entry = MethodEntry("probe_methods", {"kind": kind})
    named = "std" if kind == "wrong_std" else "volume"
    with pytest.raises(ValueError, match=f"probe on {field.split.side('test')[0]}: {named} .*expected finite"):
        run(field, entry, Sweep(), tmp_path)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    assert not list((tmp_path / "out").rglob("manifest*"))


def test_prediction_is_in_the_subjects_own_space(heads: Prepared, tmp_path: Path) -> None:
    """Grid and source have the same spacing, so that given voxels are the source's own up to float16."""
    table = run(heads, RETRIEVAL, Sweep(K=(3,), axis=("sagittal",)), tmp_path)
    for row in table.to_dict("records"):
        for contrast in ("T1w", "T2w"):
            path = Path(row["prediction"].replace("_T1w.nii.gz", f"_{contrast}.nii.gz"))
            predicted = nib.load(path)
            source_path = Path(heads.store.sidecar(row["subject"])["sources"][contrast])
            source = nib.load(source_path)
            np.testing.assert_allclose(source.affine, HEAD_AFFINE, atol=1e-5)  # stored right to left
            assert nib.aff2axcodes(predicted.affine) == ("R", "A", "S")
            np.testing.assert_allclose(predicted.affine, heads.store.affine(row["subject"]), atol=1e-4)
            voxels = np.argwhere(np.asarray(source.dataobj) > 0)
            world = nib.affines.apply_affine(source.affine, voxels)
            there = nib.affines.apply_affine(np.linalg.inv(predicted.affine), world)
            index = np.round(there).astype(int)
            np.testing.assert_allclose(there, index, atol=1e-3)
            given = np.isin(index[:, 0], [int(i) for i in row["indices"].split(",")])
            assert given.sum() > 300
            found = np.asarray(predicted.dataobj)[tuple(index[given].T)]
            np.testing.assert_allclose(found, np.asarray(source.dataobj)[tuple(voxels[given].T)], rtol=2**-11)


def test_given_voxels_are_bit_exact(heads: Prepared, tmp_path: Path) -> None:
    row = run(heads, RETRIEVAL, Sweep(K=(3,)), tmp_path).iloc[0]
    raw = np.asarray(nib.load(row["prediction"]).dataobj)
    truth = heads.store.volume(row["subject"])[0] * heads.store.scale(row["subject"])[0]
    given = [int(i) for i in row["indices"].split(",")]
    np.testing.assert_array_equal(raw[..., given], truth[..., given])
    assert (raw != truth).mean() > 0.05  # elsewhere it is another head


def test_points_left_out_are_listed_with_the_reason(field: Prepared, tmp_path: Path) -> None:
    table = run(field, PROBE, Sweep(K=(1, 16, 40), policy=("uniform", "tumour")), tmp_path)
    assert {(k, p) for k, p in zip(table["K"], table["policy"], strict=True)} == {(1, "uniform")}
    skipped = read_manifest(tmp_path / "out", kind="skipped")
    assert list(skipped.columns) == "trained_on cohort grid method K axis policy contrasts_given thickness_mm reason".split()
    reasons = {(r["K"], r["policy"]): r["reason"] for r in skipped.to_dict("records")}
    assert set(reasons) == {(16, "uniform"), (40, "uniform"), (1, "tumour"), (16, "tumour"), (40, "tumour")}
    assert "less than a quarter" in reasons[16, "uniform"]
    assert "18 foreground sections, 40 asked for" in reasons[40, "uniform"]
    assert "needs a labelled tumour" in reasons[1, "tumour"]


TRIVIAL = ("zeros", "mean_template", "retrieval", "gaussian")
POSES = Sweep(K=(3,), axis=("axial", "sagittal"), policy=("orthogonal", "tilted"))
THICK = Sweep(K=(2,), policy=("uniform", "orthogonal"), thickness_mm=(3.0, 5.0))


@pytest.mark.parametrize("kind", TRIVIAL)
def test_other_poses_and_thick_slices_go_through_to_the_scores(heads: Prepared, tmp_path: Path, kind: str) -> None:
    """Manifest, volumes and metrics of every point; what a row says was given is what was given."""
    entry = MethodEntry("baselines.trivial", {"kind": kind})
    for name, sweep, points in (("poses", POSES, 4), ("thick", THICK, 4)):
        table = run(heads, entry, sweep, tmp_path / name)
        assert len(table) == points * 2
        assert not len(read_manifest(tmp_path / name / "out", kind="skipped"))
        for row in table.to_dict("records"):
            point = Point(*(row[k] for k in ("K", "axis", "policy", "thickness_mm", "steps", "estimate", "seed")))
            spacing = heads.store.spacing_mm(row["subject"])
            chosen = choose_planes(point, heads.store.foreground(row["subject"]), None, spacing, row["subject"])
            assert parse_given(row["given"]) == chosen
            assert len(row["indices"].split(",")) == row["K"]
        scores = evaluate(tmp_path / name / "out" / "manifest-1-of-1.tsv")
        unseen = scores[(scores["region"] == "unseen") & (scores["metric"] == "psnr")]
        assert len(unseen) == points * 2 * 2  # subjects, contrasts
        assert np.isfinite(unseen["value"]).all()


@pytest.mark.parametrize(("thickness_mm", "middle_is_given"), [(3.0, True), (5.0, False)])
def test_inside_a_thick_slice_errors_count(heads: Prepared, tmp_path: Path, thickness_mm: float, middle_is_given: bool) -> None:
    """At 2 mm the middle row is two thirds of a 3 mm average, and 0.4 of a 5 mm one: only the former counts as given."""
    sweep = Sweep(K=(2,), thickness_mm=(thickness_mm,))
    row = run(heads, MethodEntry("baselines.trivial", {"kind": "zeros"}), sweep, tmp_path).iloc[0]
    truth, foreground = heads.store.volume(row["subject"])[0].astype(np.float64), heads.store.foreground(row["subject"])
    hidden = np.ones(truth.shape, bool)
    if middle_is_given:
        hidden[..., [int(i) for i in row["indices"].split(",")]] = False
    expected = -10 * np.log10((truth[hidden] ** 2).sum() / (hidden & foreground).sum())
    scores = evaluate(tmp_path / "out" / "manifest-1-of-1.tsv")
    scores = scores[(scores["region"] == "unseen") & (scores["metric"] == "psnr") & (scores["contrast"] == "T1w")]
    assert scores.loc[scores["subject"] == row["subject"], "value"].item() == pytest.approx(expected, abs=1e-3)


def test_given_sections_of_other_poses_are_met(heads: Prepared, tmp_path: Path) -> None:
    for name, sweep in (("poses", POSES), ("thick", THICK)):
        for row in run(heads, RETRIEVAL, sweep, tmp_path / name).to_dict("records"):
            raw = np.asarray(nib.load(row["prediction"]).dataobj)[None]
            truth = (heads.store.volume(row["subject"]) * heads.store.scale(row["subject"])[:, None, None, None])[:1]
            assert np.abs(raw - truth).max() > 100
            for plane in parse_given(row["given"]):
                np.testing.assert_allclose(plane.cut(raw), plane.cut(truth), atol=2e-3 * truth.max())


def test_what_a_method_cannot_use_is_listed_and_the_rest_is_made(heads: Prepared, tmp_path: Path) -> None:
    """Interpolation is along one axis: parallel sections of an axis, thin or thick."""
    linear = MethodEntry("baselines.interpolation", {"kind": "linear"})
    sweep = Sweep(K=(3,), policy=("uniform", "orthogonal", "tilted"), thickness_mm=(0.0, 3.0))
    table = run(heads, linear, sweep, tmp_path)
    assert {(p, t) for p, t in zip(table["policy"], table["thickness_mm"], strict=True)} == {("uniform", 0.0), ("uniform", 3.0)}
    skipped = read_manifest(tmp_path / "out", kind="skipped")
    reasons = {(r["policy"], r["thickness_mm"]): r["reason"] for r in skipped.to_dict("records")}
    assert set(reasons) == {(p, t) for p in ("orthogonal", "tilted") for t in (0.0, 3.0)}
    for policy, thickness in (("orthogonal", 0.0), ("orthogonal", 3.0), ("tilted", 0.0)):
        assert "along the axis of the given sections" in reasons[policy, thickness]
    assert "tilted sections are thin" in reasons["tilted", 3.0]


def test_points_below_the_methods_least_k_are_no_rows(field: Prepared, tmp_path: Path) -> None:
    linear = MethodEntry("baselines.interpolation", {"kind": "linear"}, min_k=2)
    assert set(run(field, linear, Sweep(K=(1, 2)), tmp_path)["K"]) == {2}


def test_shards_together_equal_one(field: Prepared, tmp_path: Path) -> None:
    sweep = Sweep(K=(1, 2), estimate=("sample",), seed=(5,))
    whole = run(field, PROBE, sweep, tmp_path / "whole")
    parts = [run(field, PROBE, sweep, tmp_path / "parts", shard) for shard in ("1/2", "2/2")]
    assert [len(p) for p in parts] == [4, 2]
    compare(pd.concat(parts), whole, tmp_path / "parts", tmp_path / "whole")
    with pytest.raises(InputError, match="no test subject in shard 4/4"):
        run(field, PROBE, sweep, tmp_path / "parts", "4/4")


def compare(a: pd.DataFrame, b: pd.DataFrame, folder_a: Path, folder_b: Path) -> None:
    """Two manifests are equal but for clock, memory and folder, and so are the volumes' bytes."""
    keys = ["K", "estimate", "steps", "seed", "subject"]
    a, b = (t.sort_values(keys, ignore_index=True).drop(columns=["seconds", "peak_mib"]) for t in (a, b))
    for column in ("prediction", "std"):
        for left, right in zip(a[column], b[column], strict=True):
            assert Path(left).read_bytes() == Path(right).read_bytes()
        a[column] = [str(Path(p).relative_to(folder_a)) for p in a[column]]
        b[column] = [str(Path(p).relative_to(folder_b)) for p in b[column]]
    pd.testing.assert_frame_equal(a, b)


def test_same_seed_and_subject_give_the_same_volume(field: Prepared, tmp_path: Path) -> None:
    table = run(field, PROBE, Sweep(K=(1,), estimate=("sample",), seed=(0, 1)), tmp_path / "a")
    again = run(field, PROBE, Sweep(K=(1,), estimate=("sample",), seed=(0, 1)), tmp_path / "b")
    compare(table, again, tmp_path / "a", tmp_path / "b")
    drawn = {Path(p).read_bytes() for p in table["prediction"]}
    assert len(drawn) == len(table) == 6  # every subject and seed its own noise


def test_finished_volumes_are_not_made_again_unless_their_inputs_change(
    field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(field, PROBE, Sweep(K=(1,)), tmp_path)
    before = mtimes(tmp_path / "out")
    run(field, PROBE, Sweep(K=(1, 2)), tmp_path)
    after = mtimes(tmp_path / "out")
    assert {p: t for p, t in after.items() if p in before} == before and len(after) == 2 * len(before)
    run(field, MethodEntry("probe_methods", {"level": 0.1}, estimates=("mean",)), Sweep(K=(1, 2)), tmp_path)
    assert not set(mtimes(tmp_path / "out").values()) & set(after.values())

    # a source on another intensity scale has the same array in the store, but other raw values
    original = Store.sidecar
    before = mtimes(tmp_path / "out")
    monkeypatch.setattr(Store, "sidecar", lambda self, s: {**original(self, s), "scale": [2.0]})
    table = run(field, MethodEntry("probe_methods", {"level": 0.1}, estimates=("mean",)), Sweep(K=(1,)), tmp_path)
    redone = {Path(p).relative_to(tmp_path / "out") for p in [*table["prediction"], *table["std"]]}
    assert {p for p, t in mtimes(tmp_path / "out").items() if before[p] != t} == redone


def test_loading_weights_is_not_timed(field: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = probe_methods.load

    def slow_load(weights: Path) -> probe_methods.Probe:
        time.sleep(0.5)
        return load(weights)

    monkeypatch.setattr(probe_methods, "load", slow_load)
    assert run(field, PROBE, Sweep(K=(1,)), tmp_path)["seconds"].max() < 0.4


def test_weights_for_another_array_or_other_contrasts_are_refused(field: Prepared, heads: Prepared, tmp_path: Path) -> None:
    train("probe", PROBE, field.store, field.split, tmp_path / "weights")
    with pytest.raises(InputError, match=r"weights: found weights for shape \[20, 24, 18\], expected \[24, 28, 22\]"):
        sample(PROBE, tmp_path / "weights", heads.store, heads.split, Sweep(), tmp_path / "out")
    other = Store(field.store.folder)
    other.contrasts = ("T1w",)
    with pytest.raises(InputError, match=r"weights for contrasts \['field'\], expected \['T1w'\]"):
        sample(PROBE, tmp_path / "weights", other, field.split, Sweep(), tmp_path / "out")
    other = Store(field.store.folder)
    other.norm = "p99.5"
    with pytest.raises(InputError, match=r"weights for norm none, expected p99.5"):
        sample(PROBE, tmp_path / "weights", other, field.split, Sweep(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_cohort_takes_contrasts_under_the_names_it_knows(field: Prepared, tmp_path: Path) -> None:
    train("probe", PROBE, field.store, field.split, tmp_path / "weights")
    knees = Store(field.store.folder)
    knees.cohort, knees.contrasts = "knees", ("pd",)
    for read_as, known in (({}, "pd"), ({"pd": "t1n"}, "t1n")):
        knees.info["read_as"] = read_as
        with pytest.raises(InputError, match=rf"weights for contrasts \['field'\], expected \['{known}'\]"):
            sample(PROBE, tmp_path / "weights", knees, field.split, Sweep(), tmp_path / "out")
    knees.info["read_as"] = {"pd": "field"}
    sample(PROBE, tmp_path / "weights", knees, field.split, Sweep(), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "manifest-1-of-1.tsv", sep="\t")
    assert set(table["trained_on"]) == {"gaussian-field"} and set(table["cohort"]) == {"knees"}
    assert all(path.endswith("_pd.nii.gz") for path in table["prediction"])


def test_job_killed_midway_goes_on_where_it_was(field: Prepared, tmp_path: Path) -> None:
    slow = MethodEntry("probe_methods", {"kind": "slow"}, estimates=("sample",))
    sweep = Sweep(K=(1, 2, 3), estimate=("sample",), seed=(0, 1))
    out, total = tmp_path / "killed/out", 3 * 2 * 3 * 2  # K x seeds x subjects x (volume, std)
    train("probe", slow, field.store, field.split, tmp_path / "killed/weights")
    command = [sys.executable, "-m", "xdiff.sample", "--entry", to_json(slow), "--sweep", to_json(sweep), "--out", str(out)]
    command += ["--weights", str(tmp_path / "killed/weights"), "--data", str(field.store.folder)]
    command += ["--split", str(field.split_file)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.json"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    finished = {p.name.removesuffix(".json") for p in out.rglob("*.json")}
    before = {p: t for p, t in mtimes(out).items() if any(p.name.startswith(f"{stem}_") for stem in finished)}
    assert 4 * 2 <= len(before) < total and not (out / "manifest-1-of-1.tsv").exists()

    resumed = run(field, slow, sweep, tmp_path / "killed")
    after = mtimes(out)
    assert {p: after[p] for p in before} == before and len(after) == total
    compare(resumed, run(field, slow, sweep, tmp_path / "whole"), tmp_path / "killed", tmp_path / "whole")


def test_weights_of_another_split_of_the_same_cohort_are_refused(field: Prepared, tmp_path: Path) -> None:
    """Its training patients may be this one's test patients."""
    train("probe", PROBE, field.store, field.split, tmp_path / "weights")
    sides = {"train": "train", "val": "test", "test": "val"}
    other = make_split([(s, p, sides[side]) for s, p, side in field.split.table.itertuples(index=False)])
    with pytest.raises(InputError, match=rf"weights of split {field.split.sha[:12]}, expected {other.sha[:12]}"):
        sample(PROBE, tmp_path / "weights", field.store, other, Sweep(), tmp_path / "out")


# Given contrasts ----------------------------------------------------------------------------------------------------


def raw_of(row: dict, contrast: str) -> np.ndarray:
    return np.asarray(nib.load(row["prediction"].replace("_T1w.nii.gz", f"_{contrast}.nii.gz")).dataobj)


def test_a_contrast_that_is_not_given_is_written_on_the_hidden_volumes_scale(heads: Prepared, tmp_path: Path) -> None:
    """Its brightness is fixed by nothing that is given; the given one is on the scale of its sections, and exact there."""
    entry = MethodEntry("baselines.trivial", {"kind": "mean_template"})
    table = run(heads, entry, Sweep(K=(2,), contrasts_given=("all", "T1w")), tmp_path)
    assert table.groupby("contrasts_given", sort=False).size().to_dict() == {"all": 2, "T1w": 2}
    training = np.stack([heads.store.volume(s) for s in heads.split.side("train")])
    template = np.concatenate([training, training[:, :, ::-1]]).mean(axis=0)
    rows = {(r["subject"], r["contrasts_given"]): r for r in table.to_dict("records")}
    for subject in heads.split.side("test"):
        scale, whole, own = heads.store.scale(subject), rows[subject, "all"], rows[subject, "T1w"]
        np.testing.assert_allclose(raw_of(own, "T2w"), template[1] * scale[1], rtol=1e-5)
        np.testing.assert_array_equal(raw_of(own, "T1w"), raw_of(whole, "T1w"))
        at = [int(i) for i in own["indices"].split(",")]
        truth = heads.store.volume(subject) * scale[:, None, None, None]
        np.testing.assert_array_equal(raw_of(own, "T1w")[..., at], truth[0][..., at])
        np.testing.assert_array_equal(raw_of(whole, "T2w")[..., at], truth[1][..., at])
        assert "_T1w" in Path(own["prediction"]).parent.name and own["given"] == whole["given"]


def test_the_standard_deviation_is_on_the_same_scale(heads: Prepared, tmp_path: Path) -> None:
    table = run(heads, PROBE, Sweep(K=(1,), contrasts_given=("T2w",)), tmp_path)  # whose std is 1 in its units
    for row in table.to_dict("records"):
        given = probe_methods.SEEN[-len(table) + table["subject"].tolist().index(row["subject"])]
        assert given.given == (False, True) and given.scale[0] == 1
        std = [np.asarray(nib.load(row["std"].replace("_T1w.nii", f"_{c}.nii")).dataobj) for c in ("T1w", "T2w")]
        np.testing.assert_allclose(std[0], heads.store.scale(row["subject"])[0], rtol=1e-6)
        np.testing.assert_allclose(std[1], given.scale[1], rtol=1e-6)


def test_a_point_that_a_method_cannot_do_is_listed_with_its_reason(heads: Prepared, tmp_path: Path) -> None:
    nearest = MethodEntry("baselines.interpolation", {"kind": "nearest"})
    table = run(heads, nearest, Sweep(K=(1, 2), contrasts_given=("T1w", "all")), tmp_path)
    assert set(table["contrasts_given"]) == {"all"} and set(table["K"]) == {1, 2}
    skipped = read_manifest(tmp_path / "out", kind="skipped")
    assert skipped[["K", "contrasts_given"]].to_numpy().tolist() == [[1, "T1w"], [2, "T1w"]]
    assert set(skipped["reason"]) == {"nearest interpolation needs every contrast; not given: T2w"}


def test_contrasts_that_the_cohort_lacks_are_refused_before_any_volume_is_made(heads: Prepared, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cohort heads: found 'FLAIR', expected all, or some of \['T1w', 'T2w'\]"):
        run(heads, PROBE, Sweep(contrasts_given=("all", "FLAIR")), tmp_path)
    assert not (tmp_path / "out").exists()


# Another patient's sections --------------------------------------------------------------------------------------------


def test_swap_gives_the_next_patients_sections_at_the_same_places(heads: Prepared, tmp_path: Path) -> None:
    """On the hidden volume's own scale, or the scanner's gain would tell the patients apart."""
    nearest = MethodEntry("baselines.interpolation", {"kind": "nearest"}, learns=False)
    table = run(heads, nearest, Sweep(K=(2,), policy=("uniform", "swap")), tmp_path)
    store, (one, other) = heads.store, heads.split.side("test")
    for subject, donor in ((one, other), (other, one)):
        own, swapped = (table[(table["subject"] == subject) & (table["policy"] == p)].iloc[0] for p in ("uniform", "swap"))
        assert own["given"] == swapped["given"]
        for row, shown in ((own, subject), (swapped, donor)):
            at = parse_given(row["given"])[0].index
            expected = store.volume(shown)[0][:, :, at] * store.scale(subject)[0]
            found = read_volume(row["prediction"]).array[:, :, at]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
    assert set(evaluate(tmp_path / "out" / "manifest-1-of-1.tsv")["policy"]) == {"uniform", "swap"}


def test_a_swapped_volume_is_made_again_where_the_donor_has_changed(heads: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "2mm"
    shutil.copytree(heads.store.folder, folder)
    copy = heads._replace(store=Store(folder))
    sweep = Sweep(K=(1,), policy=("swap",))
    run(copy, PROBE, sweep, tmp_path)
    before = mtimes(tmp_path / "out")
    donor, other = heads.split.side("test")
    sidecar = folder / "volumes" / f"{donor}.json"
    sidecar.write_text(sidecar.read_text().replace(copy.store.sidecar(donor)["sha256"], "0" * 64))
    run(copy, PROBE, sweep, tmp_path)
    after = mtimes(tmp_path / "out")
    assert all(after[path] != before[path] for path in before if other in str(path)) and any(other in str(p) for p in before)


def test_visits_of_one_patient_are_never_swapped() -> None:
    subjects = ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"]
    assert [other_patient(s, subjects) for s in subjects] == [subjects[2], subjects[2], subjects[0]]
    with pytest.raises(InputError, match="at least two test patients"):
        other_patient(subjects[0], subjects[:2])


def test_every_fifth_section_is_one_point_however_many_there_are(field: Prepared, tmp_path: Path) -> None:
    cubic = MethodEntry("baselines.interpolation", {"kind": "cubic"}, learns=False, min_k=4)
    table = run(field, cubic, Sweep(K=(0,), policy=("every_fifth",)), tmp_path)
    assert len(table) == 3 and set(table["K"]) == {0} and set(table["gap_mm"]) == {20.0}
    assert {tuple(p.index for p in parse_given(given)) for given in table["given"]} == {(2, 7, 12, 17)}


def test_fewer_than_four_sections_are_not_every_fifth(heads: Prepared, tmp_path: Path) -> None:
    assert run(heads, PROBE, Sweep(K=(0,), policy=("every_fifth",)), tmp_path).empty
    assert "at least 4 needed" in read_manifest(tmp_path / "out", kind="skipped")["reason"].item()

"""Cohorts joined to one training set: what each side holds, that nobody is mixed up, and that no test patient is learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import FIELD_SHAPE, Prepared, prepare

from xdiff.checkpoint import read_weights
from xdiff.config import Cohort, Grid, MethodEntry, SplitRule, Sweep
from xdiff.data.gaussian_field import write_gaussian_field
from xdiff.data.joint import JointStore, join, open_data
from xdiff.data.split import Split, make_split, patient_of, write_split
from xdiff.data.store import Store
from xdiff.errors import InputError
from xdiff.gaussian_fit import training_rows
from xdiff.plain import to_json
from xdiff.sample import sample
from xdiff.train import main, train

RETRIEVAL = MethodEntry("baselines.trivial", {"kind": "retrieval"})


def made(folder: Path, name: str, seed: int, **grid: object) -> Prepared:
    """Another cohort of Gaussian fields, whose subjects have the names that `field`'s have."""
    write_gaussian_field(folder / name, n_subjects=8, seed=seed, shape=FIELD_SHAPE, spacing_mm=4.0)
    cohort = Cohort("gaussian-field", ("field",), foreground="all", norm="none", split=SplitRule(n_val=1, n_test=2))
    array = Grid(**{"shape": FIELD_SHAPE, "spacing_mm": 4.0} | grid)
    return prepare(cohort, array, (name, "tiny"), folder / name, folder / "data")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """8 more fields under the same names: 5 train, 1 val, 2 test."""
    return made(tmp_path_factory.mktemp("other"), "other", seed=4)


@pytest.fixture(scope="module")
def joint(field: Prepared, other: Prepared) -> tuple[JointStore, Split]:
    return join([field.store, other.store], [field.split, other.split])


def test_the_first_splits_the_others_only_train(joint: tuple, field: Prepared, other: Prepared) -> None:
    _, split = joint
    for side in ("val", "test"):
        assert split.side(side) == [f"gaussian-field:{s}" for s in field.split.side(side)]
    expected = {f"gaussian-field:{s}" for s in field.split.side("train")} | {f"other:{s}" for s in other.split.side("train")}
    assert set(split.side("train")) == expected and len(split.side("train")) == 9 + 5


def test_equal_names_are_two_people_with_their_own_volumes(joint: tuple, field: Prepared, other: Prepared) -> None:
    store, _ = joint
    assert set(other.store.subjects) <= set(field.store.subjects)
    assert len(store.subjects) == len(set(store.subjects)) == 14 + 8
    for name, own in (("gaussian-field", field.store), ("other", other.store)):
        for subject in own.subjects:
            joined = f"{name}:{subject}"
            np.testing.assert_array_equal(store.volume(joined), own.volume(subject))
            np.testing.assert_array_equal(store.foreground(joined), own.foreground(subject))
            assert store.sidecar(joined) == own.sidecar(subject) and store.labels(joined) is None
            assert store.spacing_mm(joined) == own.spacing_mm(subject) and store.scale(joined) == own.scale(subject)
            np.testing.assert_array_equal(store.affine(joined), own.affine(subject))
    with pytest.raises(InputError, match="found subject sub-01, expected COHORT:SUBJECT"):
        store.volume("sub-01")


def test_the_whole_describes_itself_by_its_parts(joint: tuple, field: Prepared, other: Prepared) -> None:
    store, split = joint
    assert (store.cohort, store.grid, store.frame, store.norm) == ("gaussian-field+other", "tiny", "centred", "none")
    assert (store.shape, store.contrasts) == (FIELD_SHAPE, ("field",))
    turned, _ = join([other.store, field.store], [other.split, field.split])
    assert len({store.fingerprint, turned.fingerprint, field.store.fingerprint, other.store.fingerprint}) == 4
    assert store.splits == {"gaussian-field": field.split.sha, "other": other.split.sha}
    assert split.sha not in store.splits.values()


def test_training_rows_are_those_of_both_cohorts(joint: tuple, field: Prepared, other: Prepared) -> None:
    store, split = joint
    rows, subjects = training_rows(store, split.side("train"))
    assert len(rows) == 2 * 14
    for row, subject in zip(rows, subjects, strict=False):
        cohort, name = subject.split(":")
        own = {"gaussian-field": field, "other": other}[cohort]
        assert name in own.split.side("train")
        np.testing.assert_array_equal(row, own.store.volume(name))


@pytest.mark.parametrize(
    ("subject", "patient"),
    [("a:sub-01_ses-2", "a:sub-01"), ("a-b:BraTS-GLI-00503-001", "a-b:BraTS-GLI-00503"), ("a:sub-01", "a:sub-01")],
)
def test_visits_stay_one_patient_under_joint_names(subject: str, patient: str) -> None:
    assert patient_of(subject) == patient


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shape": (20, 24, 20)}, r"shape \[20, 24, 20\]"),
        ({"spacing_mm": 5.0}, r"spacing_mm 5\.0"),
        ({"frame": "scanner"}, "frame scanner"),
    ],
)
def test_stores_that_do_not_fit_are_refused(field: Prepared, tmp_path: Path, change: dict, named: str) -> None:
    odd = made(tmp_path, "odd", seed=5, **change)
    with pytest.raises(InputError, match=f"odd/tiny: found {named}, expected"):
        join([field.store, odd.store], [field.split, odd.split])


@pytest.mark.parametrize(("key", "value"), [("contrasts", ["T1w"]), ("norm", "p99.5"), ("native_axis", "axial")])
def test_stores_described_otherwise_are_refused(field: Prepared, other: Prepared, key: str, value: object) -> None:
    odd = Store(other.store.folder)
    odd.info = {**odd.info, key: value}
    with pytest.raises(InputError) as refused:
        join([field.store, odd], [field.split, other.split])
    assert refused.value.found == f"{key} {value}" and refused.value.where == str(odd.folder)


def test_a_cohort_is_not_joined_with_itself(field: Prepared) -> None:
    with pytest.raises(InputError, match="each cohort once"):
        join([field.store, field.store], [field.split, field.split])


@pytest.mark.parametrize("turned", [False, True])
def test_a_volume_held_out_here_is_not_trained_on_there(field: Prepared, tmp_path: Path, turned: bool) -> None:
    """The same files as another cohort, with another split: a test volume of one is a training volume of the other."""
    cohort = Cohort("gaussian-field", ("field",), foreground="all", norm="none", split=SplitRule(seed=1, n_val=2, n_test=3))
    root = Path(field.store.sidecar(field.store.subjects[0])["sources"]["field"]).parents[2]
    copy = prepare(cohort, Grid(FIELD_SHAPE, 4.0), ("copy", "tiny"), root, tmp_path)
    pairs = [(field.store, field.split), (copy.store, copy.split)][:: -1 if turned else 1]
    with pytest.raises(InputError, match="found training subject .* the same (volume|file) as .*, expected no training on"):
        join(*map(list, zip(*pairs, strict=True)))
    same = make_split(list(field.split.table.itertuples(index=False, name=None)))  # with the first one's own sides nothing leaks
    assert join([field.store, copy.store], [field.split, same])[1].side("test")


def test_a_brats_patient_is_recognised_by_name(field: Prepared, other: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def renamed(prepared: Prepared, names: dict[str, str]) -> tuple[Store, Split]:
        rows = [
            (names.get(s, s), patient_of(names.get(s, s)), side) for s, _, side in prepared.split.table.itertuples(index=False)
        ]
        store = Store(prepared.store.folder)
        store.index = prepared.store.index.rename(index=names)
        back = {new: old for old, new in names.items()}
        own = prepared.store
        monkeypatch.setattr(store, "sidecar", lambda s: own.sidecar(back.get(s, s)), raising=False)
        return store, make_split(rows)

    tested, trained = field.split.side("test")[0], other.split.side("train")[0]
    one, two = renamed(field, {tested: "BraTS-GLI-00007-000"}), renamed(other, {trained: "BraTS-GLI-00007-001"})
    with pytest.raises(InputError, match="BraTS-GLI-00007-001, the same patient as BraTS-GLI-00007-000 of gaussian-field"):
        join([one[0], two[0]], [one[1], two[1]])


def test_one_folder_opens_as_itself(field: Prepared, other: Prepared) -> None:
    store, split = open_data([field.store.folder], [field.split_file])
    assert type(store) is Store and split.sha == field.split.sha
    store, _ = open_data([field.store.folder, other.store.folder], [field.split_file, other.split_file])
    assert isinstance(store, JointStore)
    with pytest.raises(InputError, match="found 2 and 1, expected one split for each cohort"):
        open_data([field.store.folder, other.store.folder], [field.split_file])


def test_joint_weights_say_what_they_were_trained_on(field: Prepared, other: Prepared, tmp_path: Path) -> None:
    arguments = ["--method", "retrieval", "--entry", to_json(RETRIEVAL), "--out", str(tmp_path / "weights")]
    arguments += ["--data", str(field.store.folder), str(other.store.folder)]
    main([*arguments, "--split", str(field.split_file), str(other.split_file)])
    tensors, config = read_weights(tmp_path / "weights")
    assert config["trained_on"] == "gaussian-field+other"
    assert config["splits"] == {"gaussian-field": field.split.sha, "other": other.split.sha}
    assert len(tensors["rows"]) == 9 + 5
    train("retrieval", RETRIEVAL, field.store, field.split, tmp_path / "single")
    assert "splits" not in json.loads((tmp_path / "single/config.json").read_text())  # its key must not change


@pytest.mark.parametrize("tested", ["field", "other"])
def test_joint_weights_are_tested_on_the_splits_they_know_alone(
    field: Prepared, other: Prepared, tested: str, tmp_path: Path
) -> None:
    train("retrieval", RETRIEVAL, *join([field.store, other.store], [field.split, other.split]), tmp_path / "weights")
    cohort = {"field": field, "other": other}[tested]
    sample(RETRIEVAL, tmp_path / "weights", cohort.store, cohort.split, Sweep(), tmp_path / "out")
    manifest = (tmp_path / "out/manifest-1-of-1.tsv").read_text()
    assert manifest.count("gaussian-field+other") == len(cohort.split.side("test"))
    sides = {"train": "test", "val": "val", "test": "train"}
    swapped = make_split([(s, p, sides[side]) for s, p, side in cohort.split.table.itertuples(index=False)])
    with pytest.raises(InputError, match=rf"found weights of split {cohort.split.sha[:12]}, expected {swapped.sha[:12]}"):
        sample(RETRIEVAL, tmp_path / "weights", cohort.store, swapped, Sweep(), tmp_path / "out")


def test_a_joint_split_can_be_written_and_read(joint: tuple, tmp_path: Path) -> None:
    from xdiff.data.split import read_split

    write_split(joint[1], tmp_path / "split.tsv")
    assert read_split(tmp_path / "split.tsv").sha == joint[1].sha

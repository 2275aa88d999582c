"""The configuration: merged as Snakemake merges, typed, and refused with the place, what was found and what was expected."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from xdiff.config import (
    TIERS,
    Cohort,
    Config,
    Job,
    MethodEntry,
    Segment,
    Sweep,
    given_contrasts,
    jobs,
    load_config,
    segment_jobs,
    segment_json,
    without_fold,
)
from xdiff.errors import InputError
from xdiff.plain import digest, from_dict, merge, to_json

ROOT = Path(__file__).parents[1]
GOOD = {
    "cohorts": {
        "a": {"layout": "bids", "contrasts": ["T1w"], "labels": {"suffix": "seg", "values": {1: "WT"}}},
        "b": {"layout": "brats", "contrasts": ["t1n", "t2f"], "only": {"grids": ["g"]}},
    },
    "grids": {
        "g": {"shape": [8, 9, 10], "spacing_mm": 2},
        "h": {"shape": [8, 8, 8], "spacing_mm": 4.0, "only": {"cohorts": ["a"]}},
    },
    "methods": {"m": {"module": "baselines.trivial"}, "n": {"module": "baselines.interpolation", "learns": False}},
    "sweeps": {"s": {"K": [1, 2]}, "t": {"only": {"methods": ["m"]}}},
    "run": {"cohorts": ["a", "b"], "grids": ["g", "h"], "methods": ["m", "n"], "sweeps": ["s", "t"]},
}


def changed(edit: Callable[[dict], None]) -> dict:
    data = copy.deepcopy(GOOD)
    edit(data)
    return data


def at(path: str, value: object) -> Callable[[dict], None]:
    """An edit that sets `a.b.c` to a value."""

    def edit(data: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data.setdefault(key, {})
        data[last] = value

    return edit


def test_plain_data_becomes_frozen_dataclasses() -> None:
    config = from_dict(Config, GOOD)
    assert config.grids["g"].shape == (8, 9, 10)
    assert config.grids["g"].spacing_mm == 2.0
    assert isinstance(config.grids["g"].spacing_mm, float)
    assert config.cohorts["a"].labels.values == {1: "WT"}
    assert config.cohorts["b"].labels is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.grids["g"].spacing_mm = 3.0


@pytest.mark.parametrize("entry", [from_dict(Config, GOOD), *from_dict(Config, GOOD).cohorts.values()])
def test_json_gives_the_same_entry_back(entry: Config | Cohort) -> None:
    """Jobs get their entries as JSON, which turns integer keys into text."""
    assert from_dict(type(entry), json.loads(to_json(entry))) == entry


@pytest.mark.parametrize(
    ("edit", "where", "found", "expected"),
    [
        (at("cohort", {}), "config", "unknown key 'cohort'", "'cohorts'"),
        (at("cohorts.a.contrast", ["T1w"]), "config.cohorts.a", "unknown key 'contrast'", "'contrasts'"),
        (at("grids.g.spacing", 2.0), "config.grids.g", "unknown key 'spacing'", "'spacing_mm'"),
        (at("sweeps.s.k", [1]), "config.sweeps.s", "unknown key 'k'", "'K'"),
        (at("methods.m.only.method", []), "config.methods.m.only", "unknown key 'method'", "'methods'"),
        (at("cohorts.a.split", {"seeds": 1}), "config.cohorts.a.split", "unknown key 'seeds'", "'seed'"),
        (lambda d: d.pop("run"), "config", "no key 'run'", "'run'"),
        (lambda d: d["cohorts"]["a"].pop("layout"), "config.cohorts.a", "no key 'layout'", "'contrasts'"),
        (at("cohorts.a.contrasts", "T1w"), "config.cohorts.a.contrasts", "'T1w'", "a list"),
        (at("cohorts", ["a"]), "config.cohorts", "['a']", "a map"),
        (at("grids.g", 2.0), "config.grids.g", "2.0", "a map with keys"),
        (at("grids.g.spacing_mm", "2"), "config.grids.g.spacing_mm", "'2'", "type float"),
        (at("grids.g.spacing_mm", True), "config.grids.g.spacing_mm", "True", "type float"),
        (at("sweeps.s.K", [1.5]), "config.sweeps.s.K[0]", "1.5", "type int"),
        (at("methods.n.learns", "no"), "config.methods.n.learns", "'no'", "type bool"),
        (at("cohorts.a.labels", {"suffix": "seg", "values": {"one": "WT"}}), "config.cohorts.a.labels.values", "'one'", "int"),
        (at("cohorts.a.layout", "analyze"), "layout", "'analyze'", "'bids'"),
        (at("cohorts.a.layout", "dicom"), "cohorts.*.series", "[]", "['T1w'] (a pattern per contrast; layouts dicom, fastmri)"),
        (at("cohorts.a.series", {"T1w": "t1"}), "cohorts.*.series", "['T1w']", "[] (a pattern"),
        (
            at("cohorts.a", {"layout": "dicom", "contrasts": ["T1w"], "series": {"T1w": "t1(mprage"}}),
            "cohorts.*.series.T1w",
            "'t1(mprage' (missing )",
            "a regular expression",
        ),
        (at("cohorts.a.norm", "zscore"), "norm", "'zscore'", "'p99.5'"),
        (at("cohorts.a.foreground", "bet"), "foreground", "'bet'", "'otsu'"),
        (at("cohorts.a.contrasts", []), "cohorts.*.contrasts", "an empty list", "at least one"),
        (at("grids.g.frame", "world"), "frame", "'world'", "'centred'"),
        (at("grids.g.shape", [8, 8]), "grids.*", "shape (8, 8)", "three sizes"),
        (at("grids.g.spacing_mm", -1.0), "grids.*", "spacing -1.0 mm", "spacing > 0"),
        (at("sweeps.s.axis", ["oblique"]), "axis", "'oblique'", "'axial'"),
        (at("sweeps.s.policy", ["best"]), "policy", "'best'", "'uniform'"),
        (at("sweeps.s.estimate", ["median"]), "sweeps.*.estimate", "median", "mean_of_N"),
        (at("sweeps.s.estimate", ["mean_of_0"]), "sweeps.*.estimate", "mean_of_0", "mean_of_N"),
        (at("sweeps.s.K", [0]), "sweeps.*", "K (0,)", "K >= 1"),
        (at("sweeps.s", {"K": [5], "policy": ["every_fifth"]}), "sweeps.*", "policies ('every_fifth',)", "K: [0]"),
        (at("sweeps.s", {"K": [0], "policy": ["every_fifth", "uniform"]}), "sweeps.*", "K (0,)", "every_fifth alone"),
        (at("segment", {"tier": "best"}), "segment.tier", "'best'", "'cpu'"),
        (at("run.segmented", ["s", "other"]), "run.segmented", "'other'", "'s'"),
        (at("sweeps.s.steps", [1001]), "sweeps.*", "steps (1001,)", "1..1000"),
        (
            at("sweeps.s", {"contrasts_given": ["T1w+T2w"], "only": {"cohorts": ["a"]}}),
            "sweeps.s.contrasts_given, cohort a",
            "'T1w+T2w'",
            "some of ['T1w']",
        ),
        (at("sweeps.t.contrasts_given", ["all", "t1n"]), "sweeps.t.contrasts_given, cohort a", "'t1n'", "some of ['T1w']"),
        (at("run.methods", ["m", "xdif"]), "run.methods", "'xdif'", "'n'"),
        (at("run.trained_on", ["self", "c"]), "run.trained_on", "'c'", "'self', 'a', 'b'"),
        (at("run.trained_on", ["a+c"]), "run.trained_on", "'c'", "['a', 'b']"),
        (at("run.trained_on", ["self+a"]), "run.trained_on", "'self'", "['a', 'b']"),
        (at("run.trained_on", ["a+b+a"]), "run.trained_on", "'a+b+a'", "each cohort once"),
        (at("cohorts.a+b", {"layout": "bids", "contrasts": ["T1w"]}), "cohorts", "'a+b'", "without '+'"),
    ],
    ids=lambda v: v if isinstance(v, str) and v.startswith(("unknown", "no key")) else None,
)
def test_bad_configuration(edit: Callable, where: str, found: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        from_dict(Config, changed(edit))
    assert "\n" not in str(caught.value)
    assert caught.value.where == where
    assert found in caught.value.found
    assert expected in caught.value.expected


def test_jobs_are_the_product_narrowed_by_only() -> None:
    found = jobs(from_dict(Config, GOOD))
    assert found == [
        Job(c, g, m, c, s)
        for c, g, m, s in [
            *[("a", g, m, s) for g in "gh" for m, s in (("m", "s"), ("m", "t"), ("n", "s"))],
            *[("b", "g", m, s) for m, s in (("m", "s"), ("m", "t"), ("n", "s"))],
        ]
    ]


@pytest.mark.parametrize("value", ["t2f+t1n", "t1n+t1n", "t1n+t2f", "t1", "", "t1n+", "all+t1n"])
def test_a_set_of_contrasts_has_one_spelling(value: str) -> None:
    """Names in the cohort's order, and `all` for all: else one point would be made twice under two names."""
    with pytest.raises(InputError, match=r"contrasts_given: found '.*', expected all, or some of \['t1n', 't2f'\]"):
        given_contrasts(value, ("t1n", "t2f"))


def test_given_contrasts_are_named_or_all() -> None:
    four = ("t1n", "t1c", "t2w", "t2f")
    assert given_contrasts("all", four) == four
    assert given_contrasts("t1n+t2f", four) == ("t1n", "t2f")
    data = changed(at("sweeps.s", {"contrasts_given": ["all", "t2f"], "only": {"cohorts": ["b"]}}))
    assert from_dict(Config, data).sweeps["s"].contrasts_given == ("all", "t2f")


def test_only_methods_that_learn_have_rows_trained_elsewhere() -> None:
    config = from_dict(Config, changed(at("run.trained_on", ["self", "a"])))
    elsewhere = [job for job in jobs(config) if job.trained_on != job.cohort]
    assert {(j.cohort, j.trained_on, j.method, j.grid) for j in elsewhere} == {("b", "a", "m", "g")}
    assert len(jobs(config)) == len(set(jobs(config)))


def test_cohorts_are_joined_where_every_part_allows_it() -> None:
    config = from_dict(Config, changed(at("run.trained_on", ["self", "a+b"])))
    joined = [job for job in jobs(config) if job.trained_on == "a+b"]
    assert {(j.cohort, j.method, j.grid) for j in joined} == {("a", "m", "g"), ("b", "m", "g")}  # b is on grid g alone


def test_only_says_which_training_sets_an_entry_takes() -> None:
    def narrowed(names: list[str]) -> set[tuple[str, str]]:
        data = changed(at("run.trained_on", ["self", "b", "a+b"]))
        data["methods"]["m"]["only"] = {"trained_on": names, "grids": ["g"]}
        return {(j.cohort, j.trained_on) for j in jobs(from_dict(Config, data)) if j.method == "m"}

    own = {("a", "a"), ("b", "b")}
    assert narrowed(["self"]) == own
    assert narrowed(["b"]) == {("a", "b"), ("b", "b")}  # a cohort's own name means the same as self
    assert narrowed(["self", "a+b"]) == own | {("a", "a+b"), ("b", "a+b")}
    assert narrowed([]) == own | {("a", "b"), ("a", "a+b"), ("b", "a+b")}


def test_only_says_which_sweeps_a_cohort_is_in() -> None:
    data = changed(at("cohorts.b.only", {"sweeps": ["t"]}))
    assert {(j.cohort, j.sweep) for j in jobs(from_dict(Config, data)) if j.method == "m"} == {("a", "s"), ("a", "t"), ("b", "t")}


def test_brains_alone_are_asked_whether_they_are_stripped() -> None:
    data = changed(at("run.trained_on", ["self", "a"]))
    data["cohorts"]["b"] |= {"foreground": "otsu"}
    with pytest.raises(InputError, match="a model of skull-stripped volumes for cohort b of whole heads"):
        from_dict(Config, data)
    data["cohorts"]["b"] |= {"anatomy": "knee", "read_as": {"t1n": "T1w"}}
    assert ("b", "a") in {(j.cohort, j.trained_on) for j in jobs(from_dict(Config, data))}


@pytest.mark.parametrize(("key", "value"), [("anatomy", "foot"), ("read_as", {"pd": "T1w"})])
def test_an_unknown_anatomy_or_contrast_is_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=f"cohorts.*{key}|{key}"):
        from_dict(Config, changed(at(f"cohorts.a.{key}", value)))


def test_overlays_merge_maps_and_replace_lists() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": [1], "c": 3}
    overlay = {"a": {"y": [9], "z": 4}, "b": [], "c": {"new": 1}}
    assert merge(base, overlay) == {"a": {"x": 1, "y": [9], "z": 4}, "b": [], "c": {"new": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": [1], "c": 3}


def test_merging_agrees_with_snakemakes_own() -> None:
    update_config = pytest.importorskip("snakemake.utils").update_config
    for overlay in ({"a": {"y": [9]}, "b": []}, {"a": 1}, {"c": {"d": {"e": 1}}}, {}):
        base = {"a": {"x": 1, "y": [1, 2]}, "b": [1], "c": {"d": {"f": 2}}}
        expected = copy.deepcopy(base)
        update_config(expected, copy.deepcopy(overlay))
        assert merge(base, overlay) == expected


def test_files_are_read_in_order_and_overrides_come_last() -> None:
    config = load_config(
        [ROOT / "config.yaml", ROOT / "workflow/presets/smoke.yaml"], {"run": {"methods": ["zeros"]}, "data_root": "x"}
    )
    assert config.run.methods == ("zeros",)
    assert config.run.grids == ("24", "field16")
    assert config.cohorts["phantom-brain"].contrasts == ("t1n", "t1c", "t2w", "t2f")
    assert config.data_root == "x"


def test_a_missing_or_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: found no such file, expected a configuration in YAML"):
        load_config([tmp_path / "absent.yaml"])
    (tmp_path / "bad.yaml").write_text("cohorts: {a: [\n")
    with pytest.raises(InputError, match=r"bad\.yaml: found .*expected .*YAML"):
        load_config([tmp_path / "bad.yaml"])
    (tmp_path / "list.yaml").write_text("- cohorts\n")
    with pytest.raises(InputError, match=r"list\.yaml: found .*expected .*YAML"):
        load_config([tmp_path / "list.yaml"])


def test_digests_follow_every_key_and_nothing_else() -> None:
    assert digest(MethodEntry("a", params={"x": 1, "y": 2})) == digest(MethodEntry("a", params={"y": 2, "x": 1}))
    assert digest(MethodEntry("a", params={"x": 1})) != digest(MethodEntry("a", params={"x": 2}))
    assert digest(Sweep(K=(1,))) != digest(Sweep(K=(2,)))


def test_folds_of_a_cohort_stand_under_its_name() -> None:
    assert without_fold("tcga-lgg.fold2") == "tcga-lgg" and without_fold("ixi-2mm") == "ixi-2mm"
    assert without_fold("a.fold1+b") == "a+b" and without_fold("a.folds") == "a.folds"


def test_what_is_segmented_has_labels_and_is_asked_for() -> None:
    config = from_dict(Config, changed(at("run.segmented", ["t"])))
    found = segment_jobs(config)
    assert {(job.cohort, job.sweep, job.method) for job in found} == {("a", "t", "m")} and found
    assert segment_jobs(from_dict(Config, GOOD)) == []


def test_resources_are_no_part_of_what_a_segmenter_depends_on() -> None:
    assert segment_json(Segment(threads=8, gpu=1)) == segment_json(Segment()) != segment_json(Segment(epochs=3))


def test_tiers_are_those_of_the_segmenter() -> None:
    from xdiff.segment.nnunet import TIERS as OWN

    assert set(TIERS) == set(OWN)


@pytest.mark.parametrize(
    ("subjects", "found"), [({"nowhere": 3}, "plan.subjects: found 'nowhere'"), ({"phantom-brain": 0}, "phantom-brain: found 0")]
)
def test_expected_subjects_are_of_a_cohort_and_some(subjects: dict, found: str) -> None:
    with pytest.raises(InputError, match=found):
        load_config([ROOT / "config.yaml"], {"plan": {"subjects": subjects}})

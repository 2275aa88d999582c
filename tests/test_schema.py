"""The schema that Snakemake validates and the dataclasses that xdiff reads must say the same, key by key."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import jsonschema
import pytest
import yaml
from conftest import overlays

from xdiff import config as xcfg
from xdiff.config import Config, jobs
from xdiff.errors import InputError
from xdiff.plain import from_dict, merge, to_json
from xdiff.stats import base_of

ROOT = Path(__file__).parents[1]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))
# dataclass -> where its keys are in the schema
NODES = {
    Config: SCHEMA,
    xcfg.Cohort: SCHEMA["$defs"]["cohort"],
    xcfg.Labels: SCHEMA["$defs"]["cohort"]["properties"]["labels"],
    xcfg.Projection: SCHEMA["$defs"]["cohort"]["properties"]["projection"],
    xcfg.Download: SCHEMA["$defs"]["download"],
    xcfg.Remote: SCHEMA["$defs"]["download"]["properties"]["parts"]["items"],
    xcfg.SplitRule: SCHEMA["$defs"]["cohort"]["properties"]["split"],
    xcfg.Grid: SCHEMA["$defs"]["grid"],
    xcfg.MethodEntry: SCHEMA["$defs"]["method"],
    xcfg.Sweep: SCHEMA["$defs"]["sweep"],
    xcfg.Only: SCHEMA["$defs"]["only"],
    xcfg.Segment: SCHEMA["$defs"]["segment"],
    xcfg.Run: SCHEMA["$defs"]["run"],
    xcfg.Plan: SCHEMA["$defs"]["plan"],
}


def resolved(node: dict) -> dict:
    """A node with its $ref followed; keys beside the $ref win."""
    if "$ref" not in node:
        return node
    target = SCHEMA
    for part in node["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**resolved(target), **{k: v for k, v in node.items() if k != "$ref"}}


def default_config() -> dict:
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def with_overlays(preset: Path | None) -> dict:
    data = default_config()
    for path in overlays(preset) if preset else []:
        data = merge(data, yaml.safe_load(path.read_text()))
    return data


def test_every_configuration_dataclass_is_compared() -> None:
    found = {c for c in vars(xcfg).values() if dataclasses.is_dataclass(c) and c.__module__ == xcfg.__name__}
    assert found == set(NODES)


@pytest.mark.parametrize("cls", NODES, ids=lambda c: c.__name__)
def test_schema_and_dataclass_have_the_same_keys(cls: type) -> None:
    node, fields = NODES[cls], dataclasses.fields(cls)
    assert set(node["properties"]) == {f.name for f in fields}
    required = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    assert set(node.get("required", [])) == required
    assert node["additionalProperties"] is False


@pytest.mark.parametrize("cls", NODES, ids=lambda c: c.__name__)
def test_every_key_is_described(cls: type) -> None:
    for name, node in NODES[cls]["properties"].items():
        text = resolved(node).get("description", "")
        assert len(text) > 10, f"{cls.__name__}.{name} has no description"
        assert text.rstrip().endswith((".", ")")), f"{cls.__name__}.{name}: {text!r} is no sentence"


JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


@pytest.mark.parametrize("cls", NODES, ids=lambda c: c.__name__)
def test_types_agree(cls: type) -> None:
    for name, hint in typing.get_type_hints(cls).items():
        node = resolved(NODES[cls]["properties"][name])
        if typing.get_origin(hint) is tuple:
            assert node["type"] == "array", name
            item = resolved(node["items"])
            kind = JSON_TYPES.get(typing.get_args(hint)[0], "object")
            assert item.get("type", "string") == kind, name
        elif hint in JSON_TYPES:
            assert node.get("type", "string") == JSON_TYPES[hint], name
        else:
            assert "object" in node["type"], name


def test_choices_agree() -> None:
    """Every value an enum of the schema allows is accepted by the dataclass, and a made-up one by neither."""
    samples = {
        "cohort": {"layout": "bids", "contrasts": ["T1w"]},
        "grid": {"shape": [8, 8, 8], "spacing_mm": 1.0},
        "sweep": {},
        "segment": {},
    }
    classes = {"cohort": xcfg.Cohort, "grid": xcfg.Grid, "sweep": xcfg.Sweep, "segment": xcfg.Segment}
    checked = 0
    for kind, sample in samples.items():
        for name, node in SCHEMA["$defs"][kind]["properties"].items():
            many = node.get("type") == "array"
            allowed = (node["items"] if many else node).get("enum")
            for value in allowed or []:
                more = {"K": [0]} if value in xcfg.OWN_NUMBER else {}
                more |= {"series": {"T1w": "t1"}} if value in xcfg.BY_SERIES else {}
                more |= {"contrasts": ["water"]} if value == "ukb" else {}
                from_dict(classes[kind], {**sample, **more, name: [value] if many else value})
                checked += 1
            if allowed:
                with pytest.raises(InputError):
                    from_dict(classes[kind], {**sample, name: ["made-up"] if many else "made-up"})
    assert checked >= 4 + 3 + 2 + 2 + 4 + 3 + 5


def test_the_schema_itself_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("preset", [None, *PRESETS], ids=lambda p: p.stem if p else "default")
def test_the_default_and_every_preset_are_accepted_by_both(preset: Path | None) -> None:
    data = with_overlays(preset)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    config = from_dict(Config, data)
    assert jobs(config), "no job is selected"
    for grid in config.run.grids:
        assert any(job.grid == grid for job in jobs(config)), f"run.grids: nothing is left of {grid}"
    for cohort in config.run.cohorts:
        assert any(job.cohort == cohort for job in jobs(config)), f"run.cohorts: nothing is left of {cohort}"


@pytest.mark.parametrize("preset", [None, *PRESETS], ids=lambda p: p.stem if p else "default")
def test_split_files_that_are_named_exist(preset: Path | None) -> None:
    data = with_overlays(preset)
    for name, cohort in from_dict(Config, data).cohorts.items():
        assert not cohort.split.file or (ROOT / cohort.split.file).exists(), f"{name}: {cohort.split.file}"


def test_the_ablation_preset_changes_one_thing_at_a_time() -> None:
    """Every ablation is the entry of its base but for one parameter, and trained on the cohort alone."""
    config = from_dict(Config, merge(default_config(), yaml.safe_load((ROOT / "workflow/presets/ablation.yaml").read_text())))
    base = config.methods["xdiff"]
    ablations = {name: entry for name, entry in config.methods.items() if base_of(name)}
    assert set(ablations) == {name for name in config.run.methods if base_of(name)} and len(ablations) == 13
    changes = []
    for name, entry in ablations.items():
        assert base_of(name) == "xdiff" and (entry.module, entry.estimates, entry.stepped) == (base.module, base.estimates, True)
        (changed,) = (key for key in {*entry.params, *base.params} if entry.params.get(key) != base.params.get(key))
        changes.append((changed, to_json(entry.params[changed])))
    assert len(set(changes)) == 13 and sum(key == "sampler" for key, _ in changes) == 5
    joint = {job.method for job in jobs(config) if job.trained_on == "openneuro-ds002748+ixi-2mm"}
    assert joint == {"gaussian", "gaussian_local", "xdiff"}
    drawn = {"xdiff", *ablations} - {"xdiff-10-patients", "xdiff-20-patients"}
    assert {job.method for job in jobs(config) if job.sweep == "draws"} == drawn


@pytest.mark.parametrize("kind", ["cohorts", "grids", "methods", "sweeps"])
def test_an_unknown_key_is_refused_by_both(kind: str) -> None:
    data = default_config()
    next(iter(data[kind].values()))["colour"] = "red"
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.Draft202012Validator(SCHEMA).validate(data)
    with pytest.raises(InputError, match=rf"config\.{kind}\..*: found unknown key 'colour', expected one of"):
        from_dict(Config, data)

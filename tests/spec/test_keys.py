"""What makes two runs the same."""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import pytest

from star.pipeline import STAGES
from star.spec.builtin import needed
from star.spec.experiment import taken_names
from star.spec.graph import needed_of
from star.spec.keys import run_key, stage_keys
from tests.helpers import tiny


def keys(**changes: Any) -> dict[str, str]:
    return stage_keys(tiny(**changes), {"data": "x"})


def test_a_part_that_is_all_of_the_images_changes_no_key() -> None:
    assert keys(optim__train_images=400) == keys() and tiny().data.train_images == 400


@pytest.mark.parametrize(
    "change, first",
    [
        ({"data__train_images": 300}, {"dataset"}),
        ({"tokenizer__steps": 11}, {"tokenizer"}),
        ({"optim__lr": 0.2}, {"train"}),
        ({"optim__train_images": 300}, {"train"}),
        ({"model__dim": 32}, {"train"}),
        ({"generate__cfg_scale": 2.0}, {"generate"}),
        ({"generate__draw": 1}, {"generate"}),
        ({"generate__num_images": 50}, {"generate", "floor"}),
        ({"floor__num_images": 50}, {"floor"}),
        ({"generate__image_size": 14}, {"generate", "floor"}),
        ({"score__neighbours": 4}, {"reference", "score"}),
        ({"probe__epochs": 4}, {"probe"}),
    ],
)
def test_a_field_changes_its_stage_and_what_follows_only(change: dict[str, Any], first: set[str]) -> None:
    before, after = keys(), keys(**change)
    changed = {stage for stage in before if before[stage] != after[stage]}
    follows = {stage for stage in before if first & set(needed((stage,)))}
    assert changed == follows
    assert run_key(tiny(), before) != run_key(tiny(**change), after)


@pytest.mark.parametrize(
    "change",
    [
        {"resources__checkpoint_every": 7},
        {"resources__micro_batch_size": 2},
        {"resources__threads": {"train": 2}},
        {"selfguided__contrastive_layer": 1},  # what "1/2" of two layers is
        {"selfguided__single_contrastive_scale": 1.0},  # both contrastive losses are on
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_key(change: dict[str, Any]) -> None:
    assert keys(**change) == keys()


def test_an_input_that_not_every_run_reads_changes_no_key_but_its_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tiny(), tiny().model_copy(update={"seed": 1})
    before = [stage_keys(run, {"data": "x"}) for run in (first, second)]
    train = replace(STAGES["train"], inputs=("encode", "reference"), only_if={"reference": lambda run: run.seed == 1})
    monkeypatch.setitem(STAGES, "train", train)
    monkeypatch.setattr(type(first), "declared_stages", {name: STAGES[name] for name in needed_of(STAGES, STAGES)})
    after = [stage_keys(run, {"data": "x"}) for run in (first, second)]
    assert after[0] == before[0]
    changed = {stage for stage in after[1] if after[1][stage] != before[1][stage]}
    assert changed == {"train", "generate", "score", "probe", "attention"}
    assert "reference" not in needed_of(["train"], STAGES, first)
    assert "reference" in needed_of(["train"], STAGES, second)


@pytest.mark.parametrize("name", ["checks", "paths", "parameters", "conditions", "given", "settle", "declared"])
def test_common_words_may_be_names_of_stages(name: str) -> None:
    assert name not in taken_names()


@pytest.mark.parametrize(
    "place, now",
    [
        ("star.spec.sections:SelfGuidedSpec", "star.pipeline.config.selfguided"),
        ("star.spec.sections:ModelSpec", "star.pipeline.config.model"),
        ("star.spec.images:DataSpec", "star.pipeline.config.dataset"),
        ("star.spec.images:TokenizerSpec", "star.pipeline.config.tokenizer"),
        ("star.spec.run:RunSpec", "star.pipeline.config"),
        ("star.spec.setting:Setting", "star.pipeline.config.setting"),
    ],
)
def test_former_places_serve_for_one_version(place: str, now: str) -> None:
    name = place.rpartition(":")[2]
    with pytest.warns(UserWarning, match=f"{name} is {now}.{name} now"):
        found = resolve_name(place)
    assert found is resolve_name(f"{now}:{name}")
    with pytest.raises(AttributeError):
        resolve_name(place.replace(name, "Nothing"))


def test_the_fields_of_a_loss_that_is_off_do_not_count() -> None:
    off: dict[str, Any] = {"selfguided__contrastive_weight": 0}
    assert keys(**off) == keys(
        **off, selfguided__num_positions=3, selfguided__temperature=0.5, selfguided__projector_hidden=8
    )
    assert keys(**off) != keys()
    baseline = off | {"selfguided__mim_weight": 0}
    assert keys(**baseline) == keys(**baseline, selfguided__ema_decay=0.5)


def test_seed_and_outside_data_are_part_of_the_key() -> None:
    spec = tiny()
    seeded = spec.model_copy(update={"seed": 1})
    one, other = stage_keys(spec, {"data": "x"}), stage_keys(seeded, {"data": "x"})
    assert {stage for stage in one if one[stage] != other[stage]} == {
        "train",
        "generate",
        "score",
        "probe",
        "attention",
    }
    assert stage_keys(spec, {"data": "y"})["dataset"] != one["dataset"]


def test_keys_are_what_they_were() -> None:
    """A changed recipe or default makes every stored result unreachable: raise keys.SCHEMA or a stage's version knowingly."""
    assert keys()["train"] == "94a4c960fce5cd19"


def test_validating_on_the_way_makes_outputs_and_so_another_key() -> None:
    on = keys(resources__validate_every=5)
    changed = {stage for stage in on if on[stage] != keys()[stage]}
    assert changed == {"train", "generate", "score", "probe", "attention"}
    assert on["train"] != keys(resources__validate_every=6)["train"]


def test_where_a_new_version_changes_nothing_the_key_stays() -> None:
    """Version 2 of tokenizer and encode is about the order of crops, of generate about ties at top_p."""
    even, odd = keys(data__crop_range=1.15), keys(data__crop_range=1.11)  # 32 and 31 pixels before a crop of 28
    spec = tiny(data__crop_range=1.15)
    assert [STAGES[name].version_of(spec) for name in ("tokenizer", "encode", "generate")] == [1, 1, 1]
    assert [STAGES[name].version_of(tiny(data__crop_range=1.11)) for name in ("tokenizer", "encode")] == [2, 2]
    assert STAGES["generate"].version_of(tiny(generate__top_p=0.9)) == 2
    assert even["encode"] != odd["encode"]


def test_data_fields_that_are_left_alone_are_in_no_key() -> None:
    for change in ({"data__manifest": "sizes"}, {"data__exact_counts": True}):
        assert keys(**change) == keys()

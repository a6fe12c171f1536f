"""The measuring stages on real images: any number of processes, given reference files, features that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from star.errors import DataError
from star.pipeline.config import RunSpec
from star.rundir import DONE, JobDir
from star.train.trainer import build_model
from star.weights import save_weights
from tests.helpers import context, job_in, tiny, work
from tests.stage_code import CODE


@pytest.fixture(scope="module")
def jobs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Job folders of the stages up to encode, an untrained transformer, and generated images: the test images."""
    folder = tmp_path_factory.mktemp("jobs")
    spec, ready = tiny(), {}
    for stage in ("dataset", "tokenizer", "encode"):
        made = context(spec, stage, folder, **ready)
        CODE[stage](made)
        ready[stage] = made.out
    torch.manual_seed(0)
    train = folder / "train" / "out"
    train.mkdir(parents=True)
    model = build_model(spec)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    save_weights(train / "student.pt", model.state_dict())
    generate = folder / "generate" / "out"
    generate.mkdir(parents=True)
    np.save(generate / "images.npy", np.random.default_rng(0).integers(0, 256, (61, 28, 28, 1), dtype=np.uint8))
    return folder


def measure(stage: str, spec: RunSpec, jobs: Path, folder: Path, **extra: Path) -> tuple[dict[str, float], Path, dict]:
    """A stage's result, its output folder, and what it recorded: name -> {step: value}."""
    recorded: dict[str, dict[int, float]] = {}
    inputs = {name: jobs / name / "out" for name in ("dataset", "tokenizer", "encode", "train", "generate")}
    made = context(spec, stage, folder, **inputs, **extra)

    def record(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            recorded.setdefault(name, {})[step] = value

    made.record = record
    return CODE[stage](made), made.out, recorded


def test_two_processes_score_as_one(jobs: Path, tmp_path: Path) -> None:
    """61 generated and 60 reference images: shares of different sizes, splits of the inception score cut across."""
    spec = tiny(score__is_split_size=25, score__manifold_images=33)
    results = []
    for processes in (1, 2):
        dataset, generate = jobs / "dataset", jobs / "generate"
        reference = job_in(tmp_path / f"reference-{processes}", "reference", spec, processes, dataset=dataset)
        assert work(reference) == DONE, reference.log.read_text()
        score = job_in(
            tmp_path / f"score-{processes}", "score", spec, processes, reference=reference.path, generate=generate
        )
        assert work(score) == DONE, score.log.read_text()
        results.append(json.loads(score.result.read_text())["metrics"])
    assert results[1] == pytest.approx(results[0], rel=1e-6)
    first, second = (np.load(JobDir(tmp_path / f"reference-{n}").out / "reference.npz") for n in (1, 2))
    np.testing.assert_allclose(first["sigma"], second["sigma"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(first["arr_0"], second["arr_0"])
    assert first["arr_0"].shape == (33, 28, 28, 3)


def test_a_reference_file_serves_in_place_of_training_images(jobs: Path, tmp_path: Path) -> None:
    _, own, _ = measure("reference", tiny(), jobs, tmp_path / "own")
    given = tiny(score__reference=str(own / "reference.npz"))
    _, out, _ = measure("reference", given, jobs, tmp_path / "given")
    values, _, _ = measure("score", tiny(), jobs, tmp_path / "score", reference=own)
    again, _, _ = measure("score", given, jobs, tmp_path / "again", reference=out)
    assert again == pytest.approx(values, rel=1e-6)
    with np.load(own / "reference.npz") as file:
        parts = dict(file)
    np.savez(tmp_path / "adm.npz", **{name: part for name, part in parts.items() if name != "extractor"})
    with pytest.raises(DataError, match="made with inception, this run's features are efficientnet-lite0@32"):
        measure("reference", tiny(score__reference=str(tmp_path / "adm.npz")), jobs, tmp_path / "other")
    np.savez(tmp_path / "less.npz", **{name: part for name, part in parts.items() if name != "mu_s"})
    with pytest.raises(DataError, match="lacks mu, sigma, mu_s, sigma_s or arr_0"):
        measure("reference", tiny(score__reference=str(tmp_path / "less.npz")), jobs, tmp_path / "less")


def test_the_probe_does_not_depend_on_what_fits(jobs: Path, tmp_path: Path) -> None:
    kept, _, curve = measure("probe", tiny(), jobs, tmp_path / "kept")
    computed, _, again = measure("probe", tiny(resources__feature_cache_gb=0.0), jobs, tmp_path / "computed")
    assert kept == pytest.approx(computed, abs=0.011) and 0 <= kept["accuracy"] <= kept["accuracy_top5"] <= 1
    assert list(curve["accuracy_by_position"]) == [12, 24, 37, 49] == list(again["accuracy_top5_by_position"])
    assert set(curve["best_lr_by_position"].values()) <= {0.1, 0.3}


def test_attention_is_numbers_and_data(jobs: Path, tmp_path: Path) -> None:
    spec = tiny(attention__images=30, attention__shown=3)
    found, out, curves = measure("attention", spec, jobs, tmp_path)
    assert 0 < found["distance"] < 6 * 2**0.5 and 0 < found["condition_share"] < 1
    assert list(curves["distance_by_layer"]) == [1, 2] and len(curves["distance_by_position"]) == 49
    assert np.mean(list(curves["distance_by_layer"].values())) == pytest.approx(found["distance"])
    assert found["last_layer_distance"] == pytest.approx(curves["distance_by_layer"][2])
    with np.load(out / "attention.npz") as file:
        assert file["maps"].shape == (3, 2, 2, 8, 49) and file["images"].shape == (3, 28, 28, 1)
        assert file["neighbour_share"].shape == (2, 2, 49)
        assert file["uniform_distance"][0] == 0 and file["positions"].tolist()[-1] == 49
    null, _, _ = measure("attention", tiny(attention__label="null"), jobs, tmp_path / "null")
    assert null["condition_share"] != found["condition_share"]


def test_invariance_is_a_rate_and_views(jobs: Path, tmp_path: Path) -> None:
    spec = tiny(invariance__images=20, invariance__shown=2, invariance__shifts=[4, 1])
    found, out, curves = measure("invariance", spec, jobs, tmp_path)
    assert list(curves["change_rate_by_shift"]) == [1, 4]
    assert found["change_rate"] == pytest.approx(np.mean(list(curves["change_rate_by_shift"].values())))
    with np.load(out / "invariance.npz") as file:
        assert file["images"].shape == file["images_right_4"].shape == (2, 28, 28, 1)
        assert file["changed_right_4"].shape == (2, 7, 6) and file["changed_down_1"].shape == (2, 7, 7)
        np.testing.assert_array_equal(file["images"][:, :, 4:], file["images_right_4"][:, :, :-4])
        aligned = file["codes"][:, :, 1:] != file["codes_right_4"][:, :, :-1]
        np.testing.assert_array_equal(file["changed_right_4"], aligned)

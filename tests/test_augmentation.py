"""Test augmentation: what becomes of the rows, and that resuming, processes and accumulation change nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet import SpecError
from specnet.arrays.randomness import Draws
from specnet.training.augmentation import AUGMENTATIONS, Augmenter
from specnet.training.experiment import load_experiment
from tests.commands import run_specnet
from tests.support import same_arrays

ALL = [{"type": "random_crop", "padding": 2}, "flip", {"type": "shift", "pixels": 1}]


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def document(augment=ALL, dtype="float32", first=(), **training):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 100)
    x = rng.integers(0, 100, (100, 6, 5, 2)) + y[:, np.newaxis, np.newaxis, np.newaxis] * np.arange(60).reshape(6, 5, 2)
    np.savez("d.npz", x=x.astype(np.uint8), y=y)
    layers = [*first, {"type": "flatten"}, {"type": "affine", "units": 8}, {"type": "relu"}]
    layers += [{"type": "dropout", "rate": 0.2}, {"type": "affine", "units": 2}]
    settings = {"loss": "softmax_cross_entropy", "epochs": 3, "batch_size": 16, "augment": augment}
    return {
        "name": "augmented",
        "model": {"input_shape": [6, 5, 2], "dtype": dtype, "layers": layers},
        "data": {"train": {"path": "d.npz", "scale": 255}, "validation": {"fraction": 0.2}},
        "training": settings | training,
    }


def augmented(x, *specs, step=0, seed=0, parts=None):
    built = [AUGMENTATIONS[spec["type"]].nested(spec) for spec in specs]
    draws = Draws(seed, step)
    return Augmenter(built, x.shape[1:], draws)(x, [(0, len(x))] if parts is None else parts)


def moved(row, down, right):
    """Return an image moved by a distance, filled with 0, pixel by pixel."""
    height, width = row.shape[:2]
    result = np.zeros_like(row)
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                result[i, j] = row[i - down, j - right]
    return result


@pytest.mark.parametrize("spec", [{"type": "random_crop", "padding": 2}, {"type": "shift", "pixels": 2}])
def test_images_are_moved_by_every_distance_and_filled_with_zeros(spec):
    x = np.random.default_rng(0).uniform(1, 2, (400, 6, 5, 3)).astype(np.float32)
    before, y = x.copy(), augmented(x, spec)
    places = {(down, right): 0 for down in range(-2, 3) for right in range(-2, 3)}
    for row, result in zip(x, y, strict=True):
        (place,) = (place for place in places if np.array_equal(result, moved(row, *place)))
        places[place] += 1
    assert np.array_equal(x, before)
    assert min(places.values()) >= 4  # of 16 expected


@pytest.mark.parametrize(("axis", "index"), [("horizontal", 1), ("vertical", 0)])
def test_half_of_the_images_are_flipped(axis, index):
    x = np.random.default_rng(0).uniform(1, 2, (400, 6, 5, 3))
    before, y = x.copy(), augmented(x, {"type": "flip", "axis": axis})
    flipped = [np.array_equal(result, np.flip(row, index)) for row, result in zip(x, y, strict=True)]
    assert all(flip or np.array_equal(row, result) for flip, row, result in zip(flipped, x, y, strict=True))
    assert 150 < sum(flipped) < 250
    assert np.array_equal(x, before)


def test_sequences_are_moved_along_their_length():
    x = np.random.default_rng(0).uniform(1, 2, (300, 7, 2))
    found = set()
    for row, result in zip(x, augmented(x, {"type": "shift", "pixels": 3}), strict=True):
        (place,) = (n for n in range(-3, 4) if np.array_equal(result, moved(row[:, np.newaxis], n, 0)[:, 0]))
        found.add(place)
    assert found == set(range(-3, 4))


def test_a_row_becomes_the_same_in_any_part_of_its_step_and_another_in_other_steps():
    x = np.random.default_rng(0).uniform(1, 2, (50, 6, 5, 1))
    specs = [{"type": "flip"}, {"type": "random_crop", "padding": 4}]
    whole = augmented(x, *specs, step=7)
    rows = np.r_[3:20, 31:50]
    assert np.array_equal(augmented(x[rows], *specs, step=7, parts=[(3, 20), (31, 50)]), whole[rows])
    for other in ({"step": 8}, {"step": 7, "seed": 1}):
        assert np.mean((augmented(x, *specs, **other) == whole).all(axis=(1, 2, 3))) < 0.2
    assert augmented(x[:0], {"type": "flip"}, {"type": "shift"}, parts=[(4, 4)]).shape == (0, 6, 5, 1)


def test_each_augmentation_of_a_list_draws_its_own_words():
    x = np.random.default_rng(0).uniform(1, 2, (400, 1, 2, 1))
    twice = augmented(x, {"type": "flip"}, {"type": "flip"})
    assert 0.35 < np.mean((twice != x).any(axis=(1, 2, 3))) < 0.65  # the same words would restore every row


def test_a_run_interrupted_within_an_epoch_resumes_with_the_same_bits():
    specnet.train(document(), out="whole")
    stop = lambda event: event.run.stop() if event.run.step == 8 else None
    assert not specnet.train(document(), out="parts", listeners=[stop]).finished
    assert specnet.load("parts/last.h5").run_state["batch"] == 3
    specnet.train(document(), out="parts", resume=True)
    assert Path("parts/last.h5").read_bytes() == Path("whole/last.h5").read_bytes()
    code, _, err = run_specnet("replay", "parts/best.h5", "parts/last.h5")
    assert code == 0, err


def test_augmentation_changes_training_and_nothing_else():
    """The first step's validation and prediction are those of a model trained without, if nothing is learned."""
    slow = {"optimizer": {"type": "sgd", "learning_rate": 1e-30}, "epochs": 1}
    plain, changed = (specnet.train(document(augment, **slow), out=f"{len(augment)}") for augment in ([], ALL))
    assert changed.history["val_loss"] == plain.history["val_loss"]
    assert changed.history["loss"] != plain.history["loss"]
    assert changed.model.run_state["data_sha256"] == plain.model.run_state["data_sha256"]
    assert np.array_equal(changed.model.run_state["features/low"], plain.model.run_state["features/low"])
    first = [{"type": "standardize"}]
    plain, changed = (specnet.train(document(a, first=first, **slow), out=f"s{len(a)}") for a in ([], ALL))
    assert same_arrays(dict(changed.model.buffers), dict(plain.model.buffers))


def test_accumulated_batches_draw_as_one_batch():
    options = {"dtype": "float64", "first": [{"type": "standardize"}]}
    whole = specnet.train(document(batch_size=32, **options), out="whole").history
    parts = specnet.train(document(batch_size=8, accumulate=4, **options), out="parts").history
    assert np.allclose(parts["loss"], whole["loss"], rtol=1e-9, atol=0)


def test_streamed_rows_are_augmented():
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.integers(0, 255, (100, 6, 5, 2), dtype=np.uint8))
    np.save("y.npy", rng.integers(0, 2, 100))
    models = []
    for in_memory in (True, False):
        entry = {"inputs": "x.npy", "targets": "y.npy", "scale": 255, "in_memory": in_memory}
        experiment = document(shuffle=False) | {"data": {"train": entry}}
        models.append(specnet.train(experiment, out=f"{in_memory}").model)
    assert same_arrays(dict(models[0].parameters), dict(models[1].parameters))


def test_fit_and_the_dry_run_augment_too():
    x = np.random.default_rng(0).uniform(1, 2, (64, 6, 5, 2))
    losses = []
    for augment in ((), ("flip",)):
        model = specnet.build(specnet.ModelSpec(**document()["model"]))
        history = specnet.fit(model, x, np.arange(64) % 2, loss="softmax_cross_entropy", epochs=1, augment=augment)
        losses.append(history["loss"])
    assert losses[0] != losses[1]
    for index, augment in enumerate(([], ALL)):
        Path(f"{index}.json").write_text(json.dumps(document(augment)))
    (_, plain, _), (code, changed, err) = (run_specnet("train", f"{n}.json", "--dry-run", "--json") for n in (0, 1))
    assert code == 0, err
    assert json.loads(plain)["first_loss"] != json.loads(changed)["first_loss"]


def test_another_augmentation_is_another_run_unless_changes_are_allowed():
    specnet.train(document(epochs=1), out="r")
    Path("e.json").write_text(json.dumps(document(["flip"], epochs=2)))
    code, _, err = run_specnet("train", "e.json", "--out", "r", "--resume")
    assert code != 0
    assert "augment" in err
    code, _, err = run_specnet("train", "e.json", "--out", "r", "--resume", "--allow-changes")
    assert code == 0, err


def test_a_value_that_is_not_finite_is_located_in_the_augmented_rows():
    with pytest.raises(specnet.SpecnetError, match="lower the learning_rate"):
        specnet.train(document(optimizer={"type": "sgd", "learning_rate": 1e30}), out="r")


FAULTS = [
    (["crop"], [6, 5, 2], "training.augment[0]: unknown augmentation"),
    (["flip", {"type": "turn"}], [6, 5, 2], "training.augment[1].type: unknown augmentation"),
    ([{"type": "random_crop", "padding": 0}], [6, 5, 2], "training.augment[0].padding: expected a positive integer"),
    ([{"type": "random_crop", "padding": 5}], [6, 5, 2], "training.augment[0].padding: expected less than 5, got 5"),
    ([{"type": "shift", "pixels": 9}], [9, 2], "training.augment[0].pixels: expected less than 9, got 9"),
    ([{"type": "flip", "axis": "both"}], [6, 5, 2], "training.augment[0].axis: expected"),
    (["flip"], [28, 28], "training.augment[0]: flip needs images, input_shape [height, width, channels], got [28, 28]"),
    (["shift"], [60], "training.augment[0]: expected inputs of images [height, width, channels] or [length, channels]"),
    ("flip", [6, 5, 2], "training.augment: expected"),
    (["flip"] * 11, [6, 5, 2], "training.augment: expected at most 10 entries, got 11"),
]


@pytest.mark.parametrize(("augment", "input_shape", "message"), FAULTS)
def test_augmentation_that_does_not_fit_is_refused_at_its_place(augment, input_shape, message):
    experiment = document(augment)
    experiment["model"]["input_shape"] = input_shape
    with pytest.raises(SpecError, match=re.escape(message)):
        load_experiment(experiment)


def test_indices_are_not_augmented():
    experiment = document(["shift"], first=[{"type": "embedding", "vocabulary": 300, "dimension": 2}])
    experiment["model"]["input_shape"] = [6, 5]
    with pytest.raises(SpecError, match=r"training\.augment\[0\]: .* got indices; remove it"):
        load_experiment(experiment)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_augment_as_one(root, accumulate):
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("mpiexec is not installed")
    Path("e.json").write_text(json.dumps(document(dtype="float64", accumulate=accumulate)))
    losses = []
    for count in (1, 2):
        command = [mpiexec, "-n", str(count), sys.executable, "-m", "specnet", "train", "e.json", "--out", f"r{count}"]
        environment = os.environ | {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert process.returncode == 0, process.stderr
        losses.append(specnet.load(f"r{count}/last.h5").run_state["history/loss"])
    assert np.allclose(losses[0], losses[1], rtol=1e-12, atol=0)

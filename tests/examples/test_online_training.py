"""The online training example: what it learns from, that D-RTRL learns behind constant statistics, and its table."""

import numpy as np
import online_training as example
import pytest
import receptor_data as data


@pytest.fixture(scope="module")
def recordings():
    return [data.load(1), data.load(2)]


def test_it_learns_online_behind_constant_statistics(recordings, monkeypatch):
    monkeypatch.setattr(example, "STEPS", 50)
    trainer = example.Trainer("LayerNorm, stopped", "D-RTRL", recordings)
    trainer._start(0)
    matrix, before = np.asarray(trainer.network.matrix.value), trainer.heard()
    after = trainer.train(0, updates=30)
    assert after[0] > before[0] and after[1] > before[1]
    moved = np.abs(trainer.network.matrix.value - matrix)
    assert (moved > 1e-3).mean() > 0.9  # recurrent weights too
    assert trainer.heard() == after  # nothing is left of what was heard before
    trainer._start(0)
    np.testing.assert_array_equal(trainer.network.matrix.value, matrix)


def test_frozen_statistics_are_those_of_the_training_part(recordings):
    trainer = example.Trainer("BatchNorm, frozen", "BPTT", recordings)
    trainer._start(0)
    norm = trainer.network.norm
    assert norm.frozen
    assert (np.asarray(norm.running_mean.value) != 0).all()  # as they began
    assert (np.asarray(norm.running_var.value) != 1).all()
    learned_from = data.PARTS["training"][1]
    assert learned_from.stop >= example.SETTLING * example.BATCH


def test_the_row():
    found = {"BPTT": np.array([[0.1, 0.5], [0.3, 0.5]]), "D-RTRL": np.array([[0.0, 1.0], [0.0, 3.0]])}
    assert example.row("LayerNorm", found) == (
        "| LayerNorm          | 0.200 ± 0.100 | 0.000 ± 0.000 | 0.500 ± 0.000 | 2.000 ± 1.000 |"
    )

"""The patch-clamp example: what it cuts, masks, holds out and trains."""

import brainunit as u
import jax
import numpy as np
import patch_clamp_data as data
import pytest
from patch_clamp_network import ARMS
from patch_clamp_training import BATCH, Ensemble, Task


@pytest.fixture(scope="module")
def segments():
    return data.cut(data.load())


@pytest.fixture(scope="module")
def task(segments):
    return Task(segments, splits=data.SPLITS[:1], seeds=(0,))


def test_the_sweeps_come_with_their_units():
    sweeps = data.load()
    assert sweeps.voltage.shape == sweeps.current.shape == (10, 12000)
    assert sweeps.voltage.unit == u.mV and sweeps.current.unit == u.pA
    assert sweeps.cell_names == ("B6", "B8")


def test_cutting_gives_the_known_segments(segments):
    duration = segments.duration.to_decimal(u.ms)
    assert len(segments.pieces) == 587
    assert (duration.min(), np.median(duration), duration.max()) == (10.25, 27.5, 159.75)


def test_every_segment_begins_at_a_spike_and_holds_no_other(segments):
    for piece in segments.pieces:
        assert piece[0] >= data.THRESHOLD
        crossings = (piece[:-1] < data.THRESHOLD) & (piece[1:] >= data.THRESHOLD)
        assert not crossings.any()


@pytest.mark.parametrize("duration", [160 * u.ms, 320 * u.ms])
def test_padding_is_masked_and_nothing_else_is(segments, duration):
    voltage, mask = data.pad(segments, duration)
    steps = round(duration / u.ms)
    assert voltage.shape == mask.shape == (steps, 587, 4)
    samples = voltage.to_decimal(u.mV).swapaxes(0, 1).reshape(587, -1)
    valid = mask.swapaxes(0, 1).reshape(587, -1)
    for row, keep, piece in zip(samples, valid, segments.pieces, strict=True):
        np.testing.assert_array_equal(row[keep], piece.to_decimal(u.mV))
        assert keep[: len(piece)].all() and not row[~keep].any()


def test_no_sweep_is_in_both_sets(segments):
    task = Task(segments)
    for run, (split, _) in enumerate(task.runs):
        trained = set(segments.sweep[task.draw(50)[:, run].ravel()])
        assert set(segments.sweep[task.held_out[run]]) == set(split)
        assert trained == set(range(10)) - set(split)
        assert set(segments.cell[task.held_out[run]]) == {0, 1}


def test_the_draw_is_seeded_and_alike_for_sweeps_of_any_length(segments, task):
    drawn = task.draw(100)
    np.testing.assert_array_equal(drawn, task.draw(100))
    counts = np.bincount(segments.sweep[drawn.ravel()], minlength=10)
    expected = 100 * BATCH / 8
    assert np.all(abs(counts[counts > 0] - expected) < 5 * np.sqrt(expected))


def test_the_baseline_on_its_splits(segments):
    for split in data.SPLITS:
        assert 0.81 <= data.baseline(segments, split) <= 0.94


def test_balanced_accuracy_weighs_the_cells_alike():
    assert data.balanced_accuracy(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1])) == 1.0
    assert data.balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1])) == 0.5


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_an_update_of_each_arm_is_finite_and_moves_every_parameter(task, arm):
    ensemble = Ensemble(arm, task)
    before = jax.tree.leaves(ensemble.parameters)
    assert np.isfinite(ensemble.train(task.draw(1)))
    after = jax.tree.leaves(ensemble.parameters)
    assert all(np.isfinite(new).all() for new in after)
    assert all((new != old).any() for new, old in zip(after, before, strict=True))

"""The receptor example: what it reads, how it scores, and that training improves the score."""

import brainstate
import brainunit as u
import jax
import numpy as np
import pytest
import receptor
import receptor_data as data
import receptor_figure as figure
from receptor_network import ARMS


@pytest.fixture(scope="module")
def recordings():
    return [data.load(1), data.load(2)]


class Bar:
    """A progress bar that shows nothing."""

    def update(self):
        pass


def test_the_recordings(recordings):
    assert [int(r.spikes.sum()) for r in recordings] == [929, 868]
    for recording in recordings:
        assert recording.sound.shape == (20_000, data.CHANNELS)
        assert recording.sound.unit == u.pascal
        np.testing.assert_allclose(recording.sound.mean().to_decimal(u.pascal), 0.16, atol=0.01)


def test_windows_are_averages_of_the_past():
    windows = data.windows()
    np.testing.assert_allclose(windows.sum(1), 1)
    lag = (windows * np.arange(windows.shape[1])).sum(1) * data.STEP.to_decimal(u.ms)
    assert (np.diff(lag) > 0).all()
    assert (windows >= 0).all()


def test_pieces_hold_the_whole_recording(recordings):
    pieces = data.pieces(recordings[0], 8, 100)
    assert pieces.shape == (2600, 8, data.CHANNELS)
    whole = np.moveaxis(np.asarray(pieces[100:].mantissa), 0, 1).reshape(-1, data.CHANNELS)
    np.testing.assert_array_equal(whole, recordings[0].sound.mantissa)


def test_scores(recordings):
    spikes = recordings[0].spikes
    constant = np.full(len(spikes), spikes.mean(), np.float32) / data.STEP
    assert data.bits_per_spike(constant, spikes) == pytest.approx(0, abs=1e-5)
    assert data.bits_per_spike(2 * constant, spikes) == pytest.approx(1 - 1 / np.log(2), abs=1e-4)
    truth = (data.smooth(spikes) + 1e-6) / data.STEP
    assert data.bits_per_spike(truth, spikes) > 0
    assert data.correlation(truth, spikes) > 0.9


@pytest.mark.parametrize("arm", ARMS)
def test_training_improves_every_arm(arm, recordings, monkeypatch):
    monkeypatch.setattr(receptor, "EPOCHS", 12)
    monkeypatch.setattr(receptor, "CHECKS", 2)
    trainer = receptor.Trainer(arm, recordings)
    curve, rates = trainer.train(0, Bar())
    assert curve.shape == (2, 2)
    assert curve[-1, 0] > curve[0, 0]
    assert all(rate.shape == (20_000,) and rate.unit == u.Hz for rate in rates)
    again = trainer.predict()
    np.testing.assert_array_equal(again[1].mantissa, rates[1].mantissa)  # nothing of the sound before is left
    assert "+-" in receptor.row(arm, curve[None], [rates], recordings)


def test_every_seed_starts_anew(recordings):
    trainer = receptor.Trainer("braindnorm", recordings)

    def first(seed):
        trainer._start(seed)
        return jax.tree.map(np.asarray, trainer.parameters.to_dict_values())

    def same(a, b):
        return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert same(first(0), first(0))
    assert not same(first(0), first(1))
    assert len(brainstate.nn.Module.states(trainer.network, brainstate.ParamState)) == len(trainer.parameters)


def test_figure(tmp_path, recordings):
    rates = {arm: np.full(20_000, 90.0) * u.Hz for arm in ARMS}
    curves = {arm: np.random.default_rng(0).random((3, 4, 2)) for arm in ARMS}
    figure.draw(recordings[1], rates, curves, 40, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000

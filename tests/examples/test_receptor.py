"""The receptor example: what it reads, how it scores and chooses, and that training improves the score."""

from argparse import Namespace

import brainstate
import brainunit as u
import jax
import numpy as np
import pytest
import receptor
import receptor_data as data
import receptor_figure as figure
import receptor_training as training
from receptor_network import ARMS


@pytest.fixture(scope="module")
def recordings():
    return [data.load(1), data.load(2)]


class Bar:
    """A progress bar that shows nothing."""

    def update(self):
        pass

    def set_description(self, text):
        pass


def test_the_recordings(recordings):
    assert [int(r.spikes.sum()) for r in recordings] == [929, 868]
    for recording in recordings:
        assert recording.sound.shape == (20_000, data.CHANNELS)
        assert recording.sound.unit == u.pascal
        np.testing.assert_allclose(recording.sound.mean().to_decimal(u.pascal), 0.16, atol=0.01)


def test_the_parts_share_no_step_and_leave_none_out(recordings):
    (first, training_steps), (also_first, validation_steps), (second, test_steps) = data.PARTS.values()
    assert first == also_first == 0 and second == 1
    steps = np.arange(20_000)
    np.testing.assert_array_equal(np.concatenate([steps[training_steps], steps[validation_steps]]), steps)
    assert len(steps[validation_steps]) == 5_000 and len(steps[test_steps]) == 20_000


def test_only_the_training_part_is_learned_from(recordings):
    trainer = training.Trainer("no norm", 8, recordings)
    rng = np.random.default_rng(0)
    drawn = [trainer.excerpts(rng) for _ in range(300)]
    assert all(recording is recordings[0] for recording, _ in drawn)
    steps = np.stack([steps for _, steps in drawn])
    assert (np.diff(steps, axis=1) == 1).all()
    assert 0 <= steps.min() < 20 and 14_980 < steps.max() < 15_000


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


def test_scores_of_each_part(recordings):
    """The rates are right in the validation part alone; twice the mean rate is 1 - 1/ln 2 bits worse than the mean."""
    rates = []
    for recording in recordings:
        rates.append(np.full(20_000, 2 * recording.spikes.mean(), np.float64))
    rates[0][:15_000] = 2 * recordings[0].spikes[:15_000].mean()
    rates[0][15_000:] = recordings[0].spikes[15_000:].mean()
    noise = 1 + 1e-6 * np.random.default_rng(0).standard_normal(20_000)  # a correlation needs a spread
    found = data.scores([np.float32(rate * noise) / data.STEP for rate in rates], recordings)
    twice = 1 - 1 / np.log(2)
    np.testing.assert_allclose(found[:, 0], [twice, 0, twice], atol=1e-4)


def test_the_choice_is_the_best_mean_over_the_seeds():
    validation = np.zeros((3, 2, 4))
    validation[0, 0, 1] = 0.9  # the best single run
    validation[2, :, 3] = 0.5
    assert receptor.choose(validation) == (2, 3)


def test_the_choice_knows_only_the_validation_part_and_its_own_seeds(recordings, monkeypatch):
    seen = []

    class Spy:
        def __init__(self, arm, neurons, recordings):
            self.arm, self.neurons = arm, neurons

        def train(self, seed, bar):
            seen.append((self.neurons, seed))
            scores = np.zeros((4, 3, 2))
            best = {8: 0, 16: 2, 32: 1, 64: 3}[self.neurons]  # by the other parts 64 neurons are best
            scores[best, receptor.VALIDATION_PART, 0] = 1 if self.neurons == 16 else 0.5
            scores[:, receptor.TRAINING_PART] = scores[:, receptor.TEST_PART] = self.neurons
            return training.Run(scores, [])

    monkeypatch.setattr(receptor, "Trainer", Spy)
    options = Namespace(sizes=[8, 16, 32, 64], choosing=2, testing=3)
    validation, choice, runs = receptor.compare("no norm", options, recordings, Bar())
    assert validation.shape == (4, 2, 4)
    assert choice == (16, 2)
    assert seen == [(n, seed) for n in options.sizes for seed in (0, 1)] + [(16, 2), (16, 3), (16, 4)]
    assert len(runs) == 3


def test_the_tables():
    validation = np.array([[[0.1, 0.4], [0.3, 0.2]], [[0.5, 0.7], [0.5, 0.1]]])
    assert receptor.choice_rows("no norm", validation) == ("| no norm                 | 0.300 (20)   | 0.500 (10)   |")
    scores = np.arange(6.0).reshape(1, 3, 2)
    row = receptor.result_row("no norm", (32, 0), [training.Run(scores, []), training.Run(scores + 1, [])])
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["no norm", "32, 10", "0.500 ± 0.500", "2.500 ± 0.500", "4.500 ± 0.500", "5.500 ± 0.500"]


@pytest.mark.parametrize("arm", ARMS)
def test_training_improves_every_arm(arm, recordings, monkeypatch):
    monkeypatch.setattr(training, "EPOCHS", 12)
    monkeypatch.setattr(training, "EVERY", 6)
    trainer = training.Trainer(arm, 32, recordings)
    scores, rates = trainer.train(0, Bar())
    assert scores.shape == (2, 3, 2)
    assert scores[-1, 0, 0] > scores[0, 0, 0]
    assert all(rate.shape == (20_000,) and rate.unit == u.Hz for rate in rates)
    again = trainer.predict()
    np.testing.assert_array_equal(again[1].mantissa, rates[-1].mantissa)  # nothing of the sound before is left


def test_every_seed_starts_anew(recordings):
    trainer = training.Trainer("braindnorm", 8, recordings)

    def first(seed):
        trainer._start(seed)
        return jax.tree.map(np.asarray, trainer.parameters.to_dict_values())

    def same(a, b):
        return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert same(first(0), first(0))
    assert not same(first(0), first(1))
    assert len(brainstate.nn.Module.states(trainer.network, brainstate.ParamState)) == len(trainer.parameters)


def test_figure(tmp_path, recordings):
    scores = np.random.default_rng(0).random((4, 3, 2))
    run = training.Run(scores, [np.full(20_000, 90.0) * u.Hz] * 4)
    figure.draw(recordings[1], {arm: (2, [run, run]) for arm in ARMS}, 10, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000

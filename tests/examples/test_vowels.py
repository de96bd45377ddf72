"""The vowels example: what it reads, pads and scores; one short training and its fold. The recordings are made up."""

import sys
import zipfile
from pathlib import Path

import brainstate
import brainunit as u
import numpy as np
import pytest
import vowels
import vowels_data as data
import vowels_figure as figure
import vowels_network as network
import vowels_training as training
from vowels_network import ARMS, Masked, OfLayer, Unmasked


class Bar:
    """A progress bar that shows nothing."""

    def update(self):
        pass


def written(number: int, seed: int) -> str:
    """Return a .ts file of utterances whose every channel has a mean of its speaker's own."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(0, 2, (data.SPEAKERS, data.CHANNELS))
    lines = ["#made up", "@data"]
    for index in range(number):
        speaker = index % data.SPEAKERS
        frames = centres[speaker] + rng.normal(0, 1, (rng.integers(7, 30), data.CHANNELS))
        lines.append(":".join(",".join(f"{v:.4f}" for v in channel) for channel in frames.T) + f":{speaker + 1}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("wheel") / "aeon-0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for part, number in (("TRAIN", 64), ("TEST", 40)):
            archive.writestr(data.MEMBER.format(part), written(number, number))
    return path


def test_what_is_read(wheel: Path) -> None:
    train, test = data.load(wheel)
    assert len(train.frames) == len(train.speaker) == 64 and len(test.frames) == 40
    assert set(train.speaker) == set(range(data.SPEAKERS))
    assert all(one.shape[1] == data.CHANNELS and 7 <= len(one) <= 29 for one in train.frames)
    assert data.parse("@data\n1,2:3,4:5\n").frames[0].tolist() == [[1, 3], [2, 4]]
    frames = np.concatenate(data.scaled(train, train).frames)
    np.testing.assert_allclose([frames.mean(0), frames.std(0)], [[0] * 12, [1] * 12], atol=1e-5)
    assert data.nearest_centroid(train, test) > 0.9  # chance is 0.11


def test_batches_are_padded_and_filled_up(wheel: Path) -> None:
    _, test = data.load(wheel)
    order = np.arange(40)[::-1]
    x, mask, speaker = data.batches(test, order, 16, 58)
    assert x.shape == (3, 58, 16, data.CHANNELS) and mask.shape == (3, 58, 16, 1) and speaker.shape == (3, 16)
    assert speaker.reshape(-1)[:48].tolist() == [*test.speaker[order], *test.speaker[order][:8]]
    frames = test.frames[order[17]]
    np.testing.assert_array_equal(x[1, : len(frames), 1], frames)
    assert mask[1, :, 1].sum() == len(frames) and not x[1, len(frames) :, 1].any()


def test_a_wheel_is_found_or_asked_for(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    (tmp_path / "aeon-1.whl").touch()
    assert data.wheel() == tmp_path / "aeon-1.whl"
    assert data.wheel(Path("mine.whl")) == Path("mine.whl")
    (tmp_path / "aeon-1.whl").unlink()
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit, match=r"pip could not download aeon.* write --wheel path/to/it\.whl"):
        data.wheel()


def test_the_arms_differ_where_their_names_say(wheel: Path) -> None:
    """In training, twice the padding moves those without a mask, and only those."""
    train, _ = data.load(wheel)
    (short,), (short_mask,), _ = data.batches(train, np.arange(8), 8)
    moved = {}
    for kind in (Masked, Unmasked, OfLayer):
        arm = kind()
        current = np.repeat(short, 6, axis=-1)[..., :64] * u.nA
        longer = np.pad(current.mantissa, [(0, 29), (0, 0), (0, 0)]) * u.nA
        with brainstate.environ.context(fit=True):
            one = np.asarray(arm(current, short_mask).mantissa)
            two = np.asarray(arm(longer, np.pad(short_mask, [(0, 29), (0, 0), (0, 0)])).mantissa)
        moved[kind] = np.abs(np.where(short_mask, two[:29] - one, 0)).max()
    assert moved[Unmasked] > 0.1
    assert all(moved[kind] < 1e-5 for kind in (Masked, OfLayer))


def test_training_testing_and_folding(wheel: Path, capsys, tmp_path: Path, monkeypatch) -> None:
    """Four epochs of one layer: it learns, testing changes no state, the folded network gives the same spikes."""
    monkeypatch.setattr(network, "LAYERS", 1)
    ways = {"batch 8": (8, 29), "twice the padding": (8, 58)}
    monkeypatch.setattr(training, "WAYS", ways)
    train, test = data.load(wheel)
    train, test = data.scaled(train, train), data.scaled(test, train)
    trainer = training.Trainer("BatchNorm, mask", train, test, epochs=4)
    run = trainer.train(0, Bar())
    assert run.loss[-1] < run.loss[0]
    assert run.accuracy.shape == (2, 2)
    evaluation, train_mode = run.accuracy
    assert evaluation[0] == evaluation[1] and train_mode[0] == train_mode[1]  # padding does not matter
    for before, now in zip(run.states.values(), trainer.states().values(), strict=True):
        assert before is now
    spikes = vowels.fold("BatchNorm, mask", 0, trainer, test)
    assert capsys.readouterr().out.endswith("spikes for the test utterances\n0 are different.\n")
    assert spikes[0].any()
    accuracy = {arm: np.random.default_rng(0).random((2, 2, 2)) for arm in ARMS}
    figure.draw(test, accuracy, list(ways), list(training.PHASES), spikes, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_table_and_the_best_that_folds(capsys) -> None:
    accuracy = {arm: np.full((2, 2, 3), 0.5) for arm in ARMS}
    accuracy["LayerNorm, mask"] += 0.4
    accuracy["tdBN, mask"][0] += 0.2
    vowels.report(accuracy, 0.91)
    said = capsys.readouterr().out
    assert "| tdBN, mask | 0.600 ± 0.100 |" in said and "Nearest centroid of the utterances' means: 0.910." in said
    assert vowels.best(accuracy) == "tdBN, mask"
    assert "The best one by one is LayerNorm, mask, which has no norm that folds" in capsys.readouterr().out

"""Tell nine speakers apart by a vowel, with a recurrent spiking network and six ways to normalize; fold the best one.

The utterances last from 7 to 29 frames and are padded to one length. The same network is trained with BatchNorm and its
mask, the same with the scale of tdBN, without the mask, with brainstate's BatchNorm0d step by step in a loop, with
LayerNorm and its mask, and with no norm; seeds, batches and number of updates are the same. Each is tested in
evaluation (with the running statistics) and in training mode (with those of the batch), 32 utterances at once, one by
one as on a chip, and with twice the padding. Then the best network whose norms fold is folded, and gives the same
spikes. ``make demo-vowels`` runs it, in about six minutes on 2 cores; the first time it downloads the recordings.
"""

import argparse
import time
from pathlib import Path

import brainstate
import numpy as np
import vowels_data as data
import vowels_figure as figure
from tqdm import tqdm
from vowels_network import ARMS, Folded, Masked
from vowels_training import BATCH, EPOCHS, PHASES, WAYS, Trainer

SEEDS = 5
EVALUATION, ALONE = list(PHASES).index("evaluation"), list(WAYS).index("batch 1")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=figure.PATH, help="where the figure goes (%(default)s)")
    parser.add_argument("--wheel", type=Path, help="a wheel of aeon that is here already")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training (%(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="networks of each arm (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Read the recordings, train and test every arm, print the table, fold the best, draw the figure."""
    options = read_options()
    print("This takes about six minutes on 2 cores.", flush=True)
    start = time.perf_counter()
    train, test = data.load(data.wheel(options.wheel))
    describe(train, test)
    centroid = data.nearest_centroid(train, test)
    train, test = data.scaled(train, train), data.scaled(test, train)
    trainers, runs = {}, {}
    with tqdm(total=len(ARMS) * options.seeds * options.epochs, unit="epoch", smoothing=0.1) as bar:
        for arm in ARMS:
            bar.set_description(arm)
            trainers[arm] = Trainer(arm, train, test, options.epochs)
            runs[arm] = [trainers[arm].train(seed, bar) for seed in range(options.seeds)]
    accuracy = {arm: np.stack([run.accuracy for run in found]) for arm, found in runs.items()}
    report(accuracy, centroid)
    arm = best(accuracy)
    seed = int(accuracy[arm][:, EVALUATION, ALONE].argmax())
    trainers[arm].restore(runs[arm][seed].states)
    spikes = fold(arm, seed, trainers[arm], test)
    figure.draw(test, accuracy, list(WAYS), list(PHASES), spikes, options.figure)
    print(f"\nFigure: {options.figure}\nTime: {time.perf_counter() - start:.0f} s")


def describe(train: data.Utterances, test: data.Utterances) -> None:
    """Print what there is to learn from."""
    lengths = np.array([len(frames) for frames in train.frames])
    print(f"{len(lengths)} utterances of {data.SPEAKERS} speakers to learn from, {len(test.frames)} to test.")
    print(f"Those to learn from have {lengths.min()} to {lengths.max()} frames of {data.FRAME}.")
    print(f"Padded to {data.LONGEST} frames, {1 - lengths.mean() / data.LONGEST:.0%} of them is padding.")


def report(accuracy: dict[str, np.ndarray], centroid: float) -> None:
    """Print the accuracy of every arm in every way, and what is quick to beat."""
    print("\nTest utterances told right, mean ± standard deviation over seeds. Training mode takes the statistics of")
    print(f"the batch, evaluation those kept; in batches of {BATCH}, one by one, and with twice the padding:\n")
    columns = [f"{phase}, {way}" for phase in PHASES for way in WAYS]
    print(f"| | {' | '.join(columns)} |\n|{' --- |' * (1 + len(columns))}")
    for arm, found in accuracy.items():
        flat = found.reshape(len(found), -1)
        cells = [f"{mean:.3f} ± {spread:.3f}" for mean, spread in zip(flat.mean(0), flat.std(0), strict=True)]
        print(f"| {arm} | {' | '.join(cells)} |")
    print(f"\nNearest centroid of the utterances' means: {centroid:.3f}.")
    print("Published:", "; ".join(f"{name} {value:.3f}" for name, value in data.PUBLISHED.items()) + ".")


def best(accuracy: dict[str, np.ndarray]) -> str:
    """Return the arm that is best in evaluation, one by one, among those whose norms fold."""
    ranked = sorted(accuracy, key=lambda arm: -accuracy[arm][:, EVALUATION, ALONE].mean())
    first = next(arm for arm in ranked if issubclass(ARMS[arm], Masked))
    if ranked[0] != first:
        print(f"\nThe best one by one is {ranked[0]}, which has no norm that folds; the best that has is {first}.")
    return first


def fold(arm: str, seed: int, trainer: Trainer, test: data.Utterances) -> tuple[np.ndarray, np.ndarray]:
    """Fold the norms of a trained network, compare the spikes, and return those of one utterance before and after."""
    x, mask, _ = data.batches(test, np.arange(len(test.frames)), len(test.frames))

    def spikes() -> list[np.ndarray]:
        with brainstate.environ.context(fit=False):
            run = brainstate.transform.jit(lambda: trainer.network.spikes(x[0], mask[0]))
            return [np.asarray(layer) * mask[0] for layer in run()]

    before = spikes()
    trainer.network.fold()
    assert all(isinstance(layer.norm, Folded) for layer in trainer.network.layers)
    after = spikes()
    total = sum(int(layer.sum()) for layer in before)
    different = sum(int((one != other).sum()) for one, other in zip(before, after, strict=True))
    print(f"\n{arm}, seed {seed}, its norms folded into the synapses: of the {total} spikes for the test utterances")
    print(f"{different} are different.")
    return before[-1][:, 0], after[-1][:, 0]


if __name__ == "__main__":
    main()

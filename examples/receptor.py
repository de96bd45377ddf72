"""Predict the spikes of a grasshopper's auditory receptor from the sound, with a recurrent spiking network.

It learns from the first 7.5 s of one recording. The last 2.5 s of that recording, the validation part, choose the
number of neurons and of epochs, for each arm separately. The chosen networks are trained from new seeds and tested on
the other recording, whose sound fluctuates four times as fast. The arms: braindnorm (divisive gain control in Pa,
currents normalized in nA), no norm, and brainstate.nn with the units stripped by hand. ``make demo-receptor`` runs it,
in about eleven minutes on 2 cores.
"""

import argparse
from pathlib import Path

import numpy as np
import receptor_data as data
import receptor_figure as figure
from receptor_network import ARMS
from receptor_training import EPOCHS, EVERY, Run, Trainer
from tqdm import tqdm

SIZES = (8, 16, 32, 64, 128)  # neurons
CHOOSING, TESTING = 3, 5  # seeds
TRAINING_PART, VALIDATION_PART, TEST_PART = range(len(data.PARTS))
BITS, CORRELATION = range(2)


def choose(validation: np.ndarray) -> tuple[int, int]:
    """Return which size and which look to take: those with the best mean over the seeds, of (sizes, seeds, looks)."""
    size, look = np.unravel_index(validation.mean(axis=1).argmax(), validation[:, 0].shape)
    return int(size), int(look)


def compare(arm: str, options: argparse.Namespace, recordings: list[data.Recording], bar: tqdm) -> tuple:
    """Train every size of an arm, choose, and train the chosen one from new seeds: validation, choice and runs."""
    choosing, testing = options.choosing, options.testing
    trainers = [Trainer(arm, neurons, recordings) for neurons in options.sizes]
    tried = np.array([[_train(trainer, seed, bar).scores for seed in range(choosing)] for trainer in trainers])
    validation = tried[..., VALIDATION_PART, BITS]
    size, look = choose(validation)
    runs = [_train(trainers[size], seed, bar) for seed in range(choosing, choosing + testing)]
    return validation, (options.sizes[size], look), runs


def _train(trainer: Trainer, seed: int, bar: tqdm) -> Run:
    bar.set_description(f"{trainer.arm}, {trainer.neurons} neurons, seed {seed}")
    return trainer.train(seed, bar)


def choice_rows(arm: str, validation: np.ndarray) -> str:
    """Return a line of the first table: for each size the best bits per spike of the mean over the seeds, and when."""
    curves = validation.mean(axis=1)
    cells = [f"{curve.max():.3f} ({(curve.argmax() + 1) * EVERY})".ljust(12) for curve in curves]
    return f"| {arm:<23} | " + " | ".join(cells) + " |"


def result_row(arm: str, choice: tuple[int, int], runs: list[Run]) -> str:
    """Return a line of the second table: what was chosen, and the mean and standard deviation over the seeds."""
    neurons, look = choice
    found = np.array([run.scores[look] for run in runs])
    columns = [found[:, part, BITS] for part in (TRAINING_PART, VALIDATION_PART, TEST_PART)]
    cells = [f"{np.mean(c):.3f} ± {np.std(c):.3f}" for c in (*columns, found[:, TEST_PART, CORRELATION])]
    chosen = f"{neurons}, {(look + 1) * EVERY}"
    return f"| {arm:<23} | {chosen:<15} | " + " | ".join(cells) + " |"


def header(columns: list[str]) -> str:
    """Return the head of a table."""
    return f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}"


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=figure.PATH, help="where the figure goes (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="neurons to choose from %(default)s")
    parser.add_argument("--choosing", type=int, default=CHOOSING, help="seeds of the choice (%(default)s)")
    parser.add_argument("--testing", type=int, default=TESTING, help="other seeds, of the test (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Choose and test every arm, print the tables, draw the figure."""
    options = read_options()
    print("With all sizes and seeds this takes about eleven minutes on 2 cores.", flush=True)
    recordings = [data.load(1), data.load(2)]
    choices, results, drawn = [], [], {}
    trainings = len(ARMS) * (len(options.sizes) * options.choosing + options.testing)
    with tqdm(total=trainings * EPOCHS, unit="epoch") as bar:
        for arm in ARMS:
            validation, choice, runs = compare(arm, options, recordings, bar)
            choices.append(choice_rows(arm, validation))
            results.append(result_row(arm, choice, runs))
            drawn[arm] = (choice[1], runs)
    print("Bits per spike on the validation part at the best number of epochs (in brackets), mean over seeds:\n")
    print(header(["neurons", *map(str, options.sizes)]), *choices, sep="\n")
    print(f"\nChosen so, and trained from {options.testing} other seeds; mean ± standard deviation over them:\n")
    parts = [f"{part}, bits/spike" for part in data.PARTS]
    print(header(["", "neurons, epochs", *parts, "test, correlation"]), *results, sep="\n")
    figure.draw(recordings[1], drawn, EVERY, options.figure)
    print(f"\nThe figure is in {options.figure}.")


if __name__ == "__main__":
    main()

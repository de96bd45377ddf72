"""Tell two real neurons apart by their voltage between two spikes, with a spiking network and four ways to normalize.

The segments between two spikes last from 10 to 160 ms and are padded to one length. The same network is trained with
braindnorm and its mask, with braindnorm without the mask, with brainstate.nn after the units are stripped, and with no
norm at all; seeds, batches and number of updates are the same. ``make demo`` runs it, in about two minutes on 2 cores.
"""

import argparse
import time
from pathlib import Path

import brainunit as u
import numpy as np
import patch_clamp_data as data
import patch_clamp_figure as figure
from patch_clamp_network import ARMS
from patch_clamp_training import CHUNK, SEEDS, UPDATES, Result, Task, train_arm
from tqdm import tqdm


def main() -> None:
    """Cut the recordings, train every arm, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=figure.PATH, help="where the figure goes (%(default)s)")
    path = parser.parse_args().figure
    print("This takes about two minutes on 2 cores.", flush=True)
    start = time.perf_counter()
    sweeps = data.load()
    segments = data.cut(sweeps)
    task = Task(segments)
    describe(sweeps, segments, task)
    results = {}
    with tqdm(total=len(ARMS) * UPDATES, unit="update", smoothing=0.1) as bar:
        for name, arm in ARMS.items():
            bar.set_description(name)
            results[name] = train_arm(arm, task, bar)
    baselines = {split: data.baseline(segments, split) for split in data.EVERY_SPLIT}
    report(results, baselines)
    curves = {name: by_seed(np.stack(result.curve)) for name, result in results.items()}
    updates = np.arange(CHUNK, UPDATES + 1, CHUNK)
    figure.draw(sweeps, segments, updates, curves, np.mean([baselines[split] for split in data.SPLITS]), path)
    print(f"\nFigure: {path}\nTime: {time.perf_counter() - start:.0f} s")


def describe(sweeps: data.Sweeps, segments: data.Segments, task: Task) -> None:
    """Print what there is to learn from, and what is held out."""
    duration = segments.duration
    print(f"{len(segments.pieces)} interspike segments from {len(sweeps.names)} sweeps of 2 cells, of {duration.min()}")
    print(f"to {duration.max()} (median {u.math.median(duration)}), padded to {data.LONGEST}:")
    print(f"{1 - task.mask.mean():.0%} of the samples are padding. Held out, one sweep of each cell:")
    for number, split in enumerate(data.SPLITS, start=1):
        print(f"  split {number}: {' and '.join(sweeps.names[index] for index in split)}")
    print(f"Every split is run with {len(SEEDS)} seeds: {len(task.runs)} networks for each way to normalize.")


def report(results: dict[str, Result], baselines: dict[tuple[int, int], float]) -> None:
    """Print the balanced accuracy on the held-out sweeps of every arm, and of the baseline."""
    ours = [baselines[split] for split in data.SPLITS]
    print("\nBalanced accuracy on the held-out sweeps, mean ± standard deviation over seeds of the mean over splits,")
    print(f"the mean over seeds of each split, and the same networks on segments padded to {2 * data.LONGEST}:")
    heads = " ".join(f"{f'split {number}':>8}" for number in range(1, len(ours) + 1))
    print(f"{'':<25} {'all splits':>13} {heads} {f'to {2 * data.LONGEST}':>15}")
    for name, result in results.items():
        print(f"{name:<25} {spread(result.final)} {per_split(result.final)} {spread(result.padded):>15}")
    splits = " ".join(f"{value:8.3f}" for value in ours)
    print(f"{'least squares, 6 features':<25} {f'{np.mean(ours):.3f}':<13} {splits}")
    extremes = f"{min(baselines.values()):.2f} to {max(baselines.values()):.2f}"
    print(f"(Least squares over all {len(baselines)} splits that hold out one sweep of each cell: {extremes}.)")


def by_seed(accuracy: np.ndarray) -> np.ndarray:
    """Average the accuracy (..., runs) of every seed over its splits."""
    return accuracy.reshape(*accuracy.shape[:-1], len(SEEDS), len(data.SPLITS)).mean(axis=-1)


def spread(accuracy: np.ndarray) -> str:
    """Write mean and standard deviation over seeds of the mean over splits."""
    return f"{by_seed(accuracy).mean():.3f} ± {by_seed(accuracy).std(ddof=1):.3f}"


def per_split(accuracy: np.ndarray) -> str:
    """Write the mean over seeds for each split."""
    return " ".join(f"{value:8.3f}" for value in accuracy.reshape(len(SEEDS), -1).mean(axis=0))


if __name__ == "__main__":
    main()

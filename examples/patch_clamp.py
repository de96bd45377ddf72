"""Tell two real neurons apart by their voltage between two spikes, with a spiking network and four ways to normalize.

The segments between two spikes last from 10 to 160 ms and are padded to one length. The same network is trained with
braindnorm and its mask, with braindnorm without the mask, with brainstate.nn after the units are stripped, and with no
norm at all; seeds, batches and number of updates are the same. ``make demo`` runs it.
"""

import time

import numpy as np
import patch_clamp_data as data
import patch_clamp_figure as figure
from patch_clamp_network import ARMS
from patch_clamp_training import CHUNK, SEEDS, UPDATES, Result, Task, train_arm
from tqdm import tqdm


def main() -> None:
    """Cut the recordings, train every arm, print the table and draw the figure."""
    start = time.perf_counter()
    sweeps = data.load()
    segments = data.cut(sweeps)
    task = Task(segments)
    describe(segments, task)
    results = {}
    with tqdm(total=len(ARMS) * UPDATES, unit="update", smoothing=0.1) as bar:
        for name, arm in ARMS.items():
            bar.set_description(name)
            results[name] = train_arm(arm, task, bar)
    baselines = [data.baseline(segments, split) for split in data.SPLITS]
    report(results, baselines)
    curves = {name: np.stack(result.curve) for name, result in results.items()}
    path = figure.draw(sweeps, segments, np.arange(CHUNK, UPDATES + 1, CHUNK), curves, float(np.mean(baselines)))
    print(f"\nFigure: {path}\nTime: {time.perf_counter() - start:.0f} s")


def describe(segments: data.Segments, task: Task) -> None:
    """Print what there is to learn from, and what is held out."""
    duration = segments.duration
    print(
        f"{len(segments.pieces)} interspike segments of {duration.min()} to {duration.max()}"
        f" (median {np.median(duration.mantissa)} ms) from 10 sweeps of 2 cells;"
        f" padded to {data.LONGEST}, {1 - task.mask.mean():.0%} of the samples are padding."
    )
    print(
        f"{len(task.runs)} runs of each arm: {len(data.SPLITS)} splits, each holding out one sweep of each cell,"
        f" with {len(SEEDS)} seeds."
    )


def report(results: dict[str, Result], baselines: list[float]) -> None:
    """Print the balanced accuracy on the held-out sweeps: mean and standard deviation over seeds, and each split."""
    print("\nBalanced accuracy on held-out sweeps (mean over splits; mean ± standard deviation over seeds)")
    numbers = " ".join(f"{f'split {number}':>8}" for number in range(1, len(baselines) + 1))
    print(f"{'':<25} {'accuracy':>13} {numbers}   {'padded to ' + str(2 * data.LONGEST):>20}")
    for name, result in results.items():
        print(f"{name:<25} {spread(result.final)} {per_split(result.final)}   {spread(result.padded):>20}")
    splits = " ".join(f"{value:8.3f}" for value in baselines)
    print(f"{'least squares, 6 features':<25} {np.mean(baselines):.3f}         {splits}")


def spread(accuracy: np.ndarray) -> str:
    """Write mean and standard deviation over seeds of the mean over splits."""
    by_seed = accuracy.reshape(len(SEEDS), -1).mean(axis=1)
    return f"{by_seed.mean():.3f} ± {by_seed.std(ddof=1):.3f}"


def per_split(accuracy: np.ndarray) -> str:
    """Write the mean over seeds for each split."""
    return " ".join(f"{value:8.3f}" for value in accuracy.reshape(len(SEEDS), -1).mean(axis=0))


if __name__ == "__main__":
    main()

"""Train a convolutional spiking network on Fashion-MNIST, the same in spikingjelly, and with images of unequal length.

The network has two convolutions, each with tdBN and LIF neurons, and sees each image for four steps. Ours and
spikingjelly's begin with the same weights and learn from the same batches. Then ours learns from images that are each
shown for one to four steps, with the mask of the steps and without. At last a training step of both is timed without
the norms. With all images an epoch of the four networks takes about five minutes on 2 cores;
``--images 6000`` takes one. ``make demo-fashion`` runs it. The images are in Debian's package dataset-fashion-mnist, or
in a folder that ``--data`` names.
"""

import argparse
from pathlib import Path

import brainstate
import fashion_data as data
import numpy as np
from tqdm import tqdm

PATH = Path(__file__).parents[1] / "build" / "figures" / "fashion.png"
TIMED = 200  # so many steps that one of them is undisturbed


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=PATH, help="where the figure goes (%(default)s)")
    parser.add_argument("--data", type=Path, default=data.FOLDER, help="where the images are (%(default)s)")
    parser.add_argument("--images", type=int, help="learn from, and test with, this many images (all)")
    parser.add_argument("--epochs", type=int, default=1, help="of training (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Train every network, print the table, draw the figure."""
    options = read_options()
    train, test = data.load(options.data, options.images)
    print("An epoch with all images takes about five minutes on 2 cores.", flush=True)
    results = compare(train, test, options.epochs)
    print(f"\n{len(train.kind)} images to learn from, {options.epochs} times, {len(test.kind)} to test:\n")
    print("| | accuracy | loss, last tenth | fastest step |\n| --- | --- | --- | --- |")
    for name, result in results.items():
        last = result.loss[-max(len(result.loss) // 10, 1) :].mean()
        print(f"| {name} | {result.accuracy:.3f} | {last:.3f} | {1e3 * result.seconds:.0f} ms |")
    draw(results, options.figure)
    print(f"\nFigure: {options.figure}")
    print_times(train)


def network(masked: bool, normed: bool = True):
    """Return a network of ours, always with the same weights."""
    from fashion_network import Network

    with brainstate.random.seed_context(0):
        return Network(masked, normed=normed)


def compare(train: data.Images, test: data.Images, epochs: int) -> dict:
    """Train spikingjelly's network and three of ours, all from the same weights."""
    import fashion_peer as peer  # --help needs no torch
    from fashion_network import BATCH, Trainer, run

    short = data.flashed(train, 0), data.flashed(test, 1)
    arms = {
        "spikingjelly": (lambda: peer.Trainer(network(False)), (train, test)),
        "braindnorm": (lambda: Trainer(network(False)), (train, test)),
        "braindnorm, 1 to 4 steps, mask": (lambda: Trainer(network(True)), short),
        "braindnorm, 1 to 4 steps, no mask": (lambda: Trainer(network(False)), short),
    }
    results = {}
    with tqdm(total=len(arms) * epochs * (len(train.kind) // BATCH), unit="batch", smoothing=0.1) as bar:
        for name, (make, parts) in arms.items():
            bar.set_description(name)
            results[name] = run(make(), *parts, epochs, bar.update)
    return results


def print_times(train: data.Images) -> None:
    """Print how long a training step takes without norms, here and in spikingjelly."""
    import fashion_peer as peer
    from fashion_network import BATCH, Trainer, fastest

    batch = next(data.batches(train, np.arange(BATCH), BATCH))
    bare = [1e3 * fastest(make(network(False, normed=False)), batch, TIMED) for make in (peer.Trainer, Trainer)]
    print(f"\nWithout norms, fastest of {TIMED} steps: spikingjelly {bare[0]:.0f} ms, braindnorm {bare[1]:.0f} ms")


def draw(results: dict, path: Path) -> None:
    """Draw the loss of every network, smoothed over a twentieth of the batches, and its accuracy."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=[2, 1])
    for number, (name, result) in enumerate(results.items()):
        width = max(len(result.loss) // 20, 1)
        smooth = np.convolve(result.loss, np.ones(width) / width, mode="valid")
        wide = 1.5 if number else 6  # the first two lie on each other
        left.plot(np.arange(len(smooth)) + width, smooth, label=name, lw=wide, color=f"C{number}")
        bar = right.barh(name, result.accuracy, color=f"C{number}")
        right.bar_label(bar, fmt="%.3f", label_type="center", color="white")
    left.set(xlabel="batch", ylabel="cross entropy", title="Learning", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    right.set(xlim=(0, 1), title="Accuracy on the test images")
    right.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()

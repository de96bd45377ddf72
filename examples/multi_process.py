"""Train one network on several processes, and see that it learns what it learns on one.

Every process has a part of the devices, and every device a part of the neurons. The norm's statistics run over all
neurons, so over all processes. Then a batch norm takes the statistics of all segments, which the devices share, and
keeps the same on each. ``make demo-multi`` runs it, in about a minute; ``--lose 1`` ends process 1 half way, to show
what happens. On a cluster each host runs the part below ``worker`` alone, with `jax.distributed.initialize()`.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 25  # seconds that the others have to notice a lost process


def main() -> None:
    """Run the processes, then one process with as many devices, and compare the losses."""
    options = read_options()
    if options.process is not None:
        worker(options)
        return
    each = options.devices
    print(
        f"{options.processes} processes with {each} devices each, then 1 process with {options.processes * each}:",
        flush=True,
    )
    (several, kept), (single, kept_by_one) = (
        launch(options.processes, each, options),
        launch(1, options.processes * each, argparse.Namespace(**{**vars(options), "lose": None})),
    )
    print("update  several processes     one process")
    for number in range(0, options.updates, max(options.updates // 10, 1)):
        print(f"{number:6}  {several[number]:17.12f}  {single[number]:14.12f}")
    difference = max(abs(a - b) for a, b in zip(several, single, strict=True))
    print(f"The loss fell from {several[0]:.3f} to {several[-1]:.3f}. Largest difference of any loss: {difference:.1e}")
    mean, var = kept[0]
    print(f"Each of {len(kept)} devices keeps a running mean of {mean:.9f} mV and a variance of {var:.9f} mV^2.")
    if difference > 1e-9:
        sys.exit("The processes did not learn the same.")
    if (
        any(row != kept[0] for row in kept)
        or max(abs(a - b) for a, b in zip(kept[0], kept_by_one[0], strict=True)) > 1e-9
    ):
        sys.exit("The processes did not keep the same.")


def read_options() -> argparse.Namespace:
    """Read the command line; what a worker is told comes after `--process`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="how many (%(default)s)")
    parser.add_argument("--devices", type=int, default=2, help="of each process (%(default)s)")
    parser.add_argument("--updates", type=int, default=40, help="of the weights (%(default)s)")
    parser.add_argument("--lose", type=int, metavar="PROCESS", help="end this process half way")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def launch(processes: int, devices: int, options: argparse.Namespace) -> tuple[list[float], list[list[float]]]:
    """Start the processes. Return the losses of the first, and the running mean and variance of every device of all.

    End with a sentence if a process is lost.
    """
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder, f"{index}.json") for index in range(processes)]
        command = [sys.executable, __file__, f"--address=127.0.0.1:{free_port()}", f"--processes={processes}"]
        command += [f"--updates={options.updates}", *([] if options.lose is None else [f"--lose={options.lose}"])]
        with open(Path(folder, "log"), "w") as log:
            streams = {"env": environment, "stdout": log, "stderr": log}
            started = [
                subprocess.Popen([*command, f"--process={index}", f"--result={path}"], **streams)
                for index, path in enumerate(results)
            ]
            ended = wait(started)
        if any(process.returncode for process in started):
            sys.exit(describe([process.returncode for process in started], ended, results))
        found = [json.loads(path.read_text()) for path in results]
        return found[0]["losses"], [row for each in found for row in each["kept"]]


def wait(started: list[subprocess.Popen[bytes]]) -> dict[int, float]:
    """Wait for all; once one has failed, no longer than PATIENCE. Return when each ended by itself, in order."""
    ended: dict[int, float] = {}
    failed = float("inf")
    try:
        while len(ended) < len(started) and time.monotonic() < failed + PATIENCE:
            for index, process in enumerate(started):
                if index not in ended and process.poll() is not None:
                    ended[index] = time.monotonic()
                    failed = min(failed, ended[index]) if process.returncode else failed
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return ended


def describe(codes: list[int], ended: dict[int, float], results: list[Path]) -> str:
    """Say which process was lost, and what the others made of it."""
    errors = {index: json.loads(path.read_text()).get("error") for index, path in enumerate(results) if path.exists()}
    silent = [index for index in ended if index not in errors]
    # what a signal ended was lost; the others may have been seen first
    lost = min(silent or ended, key=lambda index: codes[index] >= 0)
    by = f"by signal {-codes[lost]}" if codes[lost] < 0 else f"with {codes[lost]}"
    lines = [f"Process {lost} was lost: it ended {by}. {errors.get(lost, '')}".rstrip()]
    for index in set(range(len(codes))) - {lost}:
        said = errors.get(index) or f"JAX ended it with {codes[index]}, having lost contact"
        if index in ended:
            later = max(ended[index] - ended[lost], 0)
            lines.append(f"Process {index} stopped {later:.1f} s later, because every sum needs all: {said}")
        else:
            lines.append(f"Process {index} had not noticed after {PATIENCE} s, and was ended.")
    return "\n".join(lines)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def worker(options: argparse.Namespace) -> None:
    """Join the other processes, train with them, and write the losses, or the error, as JSON."""
    import jax

    if options.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            options.address, options.processes, options.process, initialization_timeout=60, heartbeat_timeout_seconds=10
        )
    import brainstate
    from multi_process_training import kept, losses

    brainstate.environ.set(precision=64)
    found: list[float] = []
    try:
        for loss in losses(options.updates):
            found.append(loss)
            if options.lose == options.process and len(found) == options.updates // 2:
                os.kill(os.getpid(), signal.SIGKILL)
        statistics = kept()
    except Exception as error:
        said = f"{type(error).__name__} in update {len(found)}, {str(error).splitlines()[0]}"
        options.result.write_text(json.dumps({"error": said}))
        os._exit(1)  # not through jax.distributed.shutdown, which would wait for the lost process
    options.result.write_text(json.dumps({"losses": found, "kept": statistics}))


if __name__ == "__main__":
    main()

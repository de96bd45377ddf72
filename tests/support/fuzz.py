"""Random calls, valid and not: each has to give the right result or one of our own errors.

``python -m tests.support.fuzz --calls 10000`` (or ``make fuzz``). A call that fails is made again by its own seed:
``python -m tests.support.fuzz --seed 123 --calls 1``.
"""

import argparse
import random
import sys
import traceback
import warnings
from collections import Counter
from typing import Any, NamedTuple

import jax

from braindnorm.errors import NormError
from tests.support.calls import draw_call, perform
from tests.support.expected import compare, expected
from tests.support.spoil import spoil


class Outcome(NamedTuple):
    """How a call went: 'right', 'refused' with one of our errors, or 'wrong', and what is to be said of it."""

    verdict: str
    detail: str


def judge(seed: int, *, valid_share: float = 0.5, eager_share: float = 0.05) -> Outcome:
    """Make the call of this seed."""
    generator = random.Random(seed)
    call, junk = draw_call(generator.choice, compiled=generator.random() >= eager_share), {}
    if generator.random() >= valid_share:
        call, junk = spoil(generator.choice, call)
    said = f"{call.kind} {call.form}, x={call.x!r}, {call.options}, {call.built}, junk: {junk}"
    try:
        with warnings.catch_warnings():
            if junk:  # numpy and JAX warn of some of it before they refuse it
                warnings.simplefilter("ignore")
            y = perform(call)
    except NormError as error:
        wrong = "" if junk else f"refused a valid call: {type(error).__name__}: {error}"
        return Outcome("wrong", f"{wrong}\n{said}") if wrong else Outcome("refused", type(error).__name__)
    except Exception:
        return Outcome("wrong", f"{traceback.format_exc()}\n{said}")
    try:
        problem = compare(y, expected(call))
    except Exception as error:
        problem = f"{type(error).__name__} {error} in the reference, but got {y!r}"
    if problem is None:
        return Outcome("right", "junk that means something" if junk else "valid")
    return Outcome("wrong", f"{problem}\n{said}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first call; each of the others is one higher")
    parser.add_argument("--valid", type=float, default=0.5, help="share of the calls that are valid")
    parser.add_argument("--stop", type=int, default=10, help="give up after so many wrong ones")
    given = parser.parse_args(argv)
    counts: Counter[Any] = Counter()
    for seed in range(given.seed, given.seed + given.calls):
        outcome = judge(seed, valid_share=given.valid)
        counts[outcome.verdict] += 1
        if outcome.verdict == "wrong":
            print(f"WRONG: seed {seed}\n{outcome.detail}\n", flush=True)
            if counts["wrong"] >= given.stop:
                break
        else:
            counts[f"  {outcome.verdict}: {outcome.detail}"] += 1
        if (seed - given.seed) % 500 == 499:
            jax.clear_caches()  # what was compiled is not met again
            print(f"{seed - given.seed + 1} calls, {counts['wrong']} wrong", file=sys.stderr, flush=True)
    for key in sorted(counts, key=str.strip):
        print(f"{counts[key]:6d} {key}")
    if counts["wrong"]:
        print("Make one again: python -m tests.support.fuzz --calls 1 --seed SEED")
    return min(counts["wrong"], 1)


if __name__ == "__main__":
    raise SystemExit(main())

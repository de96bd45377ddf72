"""What the layers share is documented once, and repeated in each layer, where static readers find it too.

``python -m tests.support.docstrings`` writes the copies anew from the sources.
"""

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

from braindnorm import BatchNorm, DivisiveNorm, GroupNorm, LayerNorm, OverTime, RMSNorm, functional, layers

ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \w+)*)(?: : (.+))?\n((?:^ +.*\n?|^\n(?= ))+)", re.MULTILINE)
# The layers, and which of what they take is said in words of their own.
OWN: dict[Any, set[str]] = {
    LayerNorm: {"reduction_axes", "feature_axes"},
    RMSNorm: {"reduction_axes", "feature_axes"},
    GroupNorm: {"feature_axis", "num_groups", "group_size", "reduction_axes"},
    BatchNorm: {
        "feature_axis", "track_running_stats", "momentum", "affine", "bias_initializer", "scale_initializer",
        "mean_type", "running_steps", "gain_steps", "gain_power", "unbiased", "frozen",
    },
    DivisiveNorm: {
        "in_size", "pool_axes", "feature_axes", "exponent", "sigma", "gamma", "pool", "rectify", "masked_output",
        "dtype", "unit", "out_unit", "stop_statistics_gradient",
    },
    OverTime: {"norm", "decay", "tau", "normalize_by", "max_ratio", "min_count", "time_axis", "frozen"},
}  # fmt: skip


def entries_of(text: str) -> dict[str, tuple[str, str]]:
    """Return the type and the description of every parameter that a text documents, in one line each."""
    found = {}
    for names, kind, description in ENTRY.findall(text):
        for name in names.split(", "):
            found[name.lstrip("*")] = (kind, " ".join(re.sub(r" \[\d\]_", "", description).split()))
    return found


def parameters_of(documented: Any) -> dict[str, tuple[str, str]]:
    """Return what the Parameters section of a docstring says."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", inspect.getdoc(documented) or "", re.M | re.S)
    return entries_of(section.group(1)) if section else {}


def shared() -> dict[str, tuple[str, str]]:
    """Return what all layers share, from the two modules that say it."""
    return {
        name: entry
        for module in (functional, layers)
        for name, entry in entries_of(inspect.getdoc(module) or "").items()
    }


def rewritten(layer: Any) -> str:
    """Return the Parameters section of a layer, with the shared entries as their sources have them."""
    source, lines = shared(), []
    doc = inspect.getdoc(layer)
    own = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n)", doc, re.M | re.S).group(1)
    written: list[str] = []
    for match in ENTRY.finditer(own):
        if set(match.group(1).split(", ")) <= OWN[layer]:
            written += match.group(1).split(", ")
            lines.append(match.group(0).rstrip())
    at = {name: line for line in lines for name in line.split(" : ")[0].split(", ")}
    out: list[str] = []
    for name in inspect.signature(layer).parameters:
        if name in written:
            if at[name] not in out:
                out.append(at[name])
        else:
            kind, text = source[name]
            wrapped = textwrap.wrap(text, 112, break_on_hyphens=False, break_long_words=False)
            out.append("\n".join([f"{name} : {kind}", *(f"    {line}" for line in wrapped)]))
    return "\n".join(out) + "\n"


def main() -> None:
    """Write the copies."""
    for layer in OWN:
        path = Path(inspect.getsourcefile(layer) or "")
        text = path.read_text()
        section = re.compile(r"(    Parameters\n    -+\n).*?(?=\n    (?:Raises|Returns|Notes|Attributes)\n)", re.S)
        new = textwrap.indent(rewritten(layer), "    ")
        start = text.index(f"class {layer.__name__}(")
        text = text[:start] + section.sub(lambda match, new=new: match.group(1) + new, text[start:], count=1)
        path.write_text(text)


if __name__ == "__main__":
    main()

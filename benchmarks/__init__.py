"""How fast the norms are, beside those of other libraries: run as ``python -m benchmarks``."""

"""The examples are scripts that import each other from their own folder; let the tests import them as they do."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "examples"))

"""Add the kernels' library to a wheel, or put it beside the sources of an editable installation.

Where it cannot be compiled the wheel is a pure one, and the build says so. The environment variable
``BRAINDNORM_KERNELS`` decides otherwise: ``0`` leaves the library out, ``required`` makes it an error if there is none.
"""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    """Compile the library while a wheel is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile it, and name the wheel for what it holds."""
        wanted = os.environ.get("BRAINDNORM_KERNELS", "")
        if self.target_name != "wheel" or wanted == "0":
            return
        build = _build_module(Path(self.root))
        try:
            if version == "editable":
                build.install_beside_sources()
                return
            self._folder = tempfile.mkdtemp()
            library = Path(self._folder, build.installed_name())
            build.compile_for_installation(library)
        except build.BuildError as error:
            if wanted == "required":
                raise
            self.app.display_warning(f"braindnorm is built without kernels, and runs by plain JAX: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{build.platform_tag(library)}"
        build_data["force_include"][str(library)] = f"braindnorm/cpu_kernels/lib/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what is in the wheel now."""
        if hasattr(self, "_folder"):
            shutil.rmtree(self._folder)


def _build_module(root: Path) -> ModuleType:
    """Return the module that compiles, by its path: the package itself cannot be imported where it is built."""
    spec = importlib.util.spec_from_file_location("_build", root / "braindnorm" / "cpu_kernels" / "_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""The other packages are optional, and are imported when they are asked for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import braindnorm
from braindnorm import LayerNorm, interop, monitor
from braindnorm.errors import NormError, OptionError, PackageError

PACKAGES = ["brainpy", "equinox", "flax", "spikingjelly", "torch"]


def test_every_name_is_found() -> None:
    for name in interop.__all__:
        assert getattr(interop, name).__name__ == name


def test_another_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'from_keras'"):
        _ = interop.from_keras


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    there: Any = getattr(interop, f"to_{package}")
    back: Any = getattr(interop, f"from_{package}")
    for convert in (there, back):
        with pytest.raises(PackageError, match=f": this needs the package {package}, which is not installed"):
            convert(LayerNorm(8))
    assert issubclass(PackageError, NormError)
    assert issubclass(PackageError, ImportError)


@pytest.mark.parametrize(("framework", "home"), [("nnx", "flax"), ("linen", "flax"), ("equinox", "equinox")])
def test_register_converters_names_a_missing_package(
    framework: str, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, home, None)
    with pytest.raises(PackageError, match=f"register_converters: this needs the package {home}"):
        interop.register_converters(framework)


def test_a_framework_that_brainstate_does_not_convert_is_refused() -> None:
    with pytest.raises(OptionError, match="register_converters takes 'nnx', 'linen' and 'equinox'; got 'torch'"):
        interop.register_converters("torch")


def test_what_an_installed_package_itself_misses_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import a_module_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_nowhere"):
        interop.to_torch(LayerNorm(8))


def test_nothing_is_imported_until_asked() -> None:
    program = (
        "import sys, braindnorm.interop, braindnorm.interop.brainstate, braindnorm.interop.torch\n"
        f"assert not {{*{PACKAGES}}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_imports_its_rarer_parts_when_asked() -> None:
    program = (
        "import sys, braindnorm\n"
        "assert not {'braindnorm.monitor', 'braindnorm.interop'} & set(sys.modules)\n"
        "assert braindnorm.interop.from_torch and braindnorm.monitor.check and braindnorm.replace_norms"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert {"interop", "monitor", "replace_norms", "LayerNorm"} <= set(dir(braindnorm))
    assert set(braindnorm.__all__) <= set(dir(braindnorm))
    rarer = {name: braindnorm.__getattr__(name) for name in ("interop", "monitor", "replace_norms")}
    assert rarer == {"interop": interop, "monitor": monitor, "replace_norms": interop.replace_norms}
    with pytest.raises(AttributeError, match="no attribute 'replace_norm'"):
        _ = braindnorm.replace_norm

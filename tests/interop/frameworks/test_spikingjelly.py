"""The batch norms of spikingjelly and ours: the same values in both phases after a conversion, both ways."""

import warnings
from typing import Any

import brainstate
import brainunit as u
import numpy as np
import pytest
import torch

from braindnorm import BatchNorm, LayerNorm, bntt, tab, tebn
from braindnorm.errors import ConversionError
from braindnorm.interop import from_spikingjelly, to_spikingjelly
from tests.support.norms import draw

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what spikingjelly imports
    from spikingjelly.activation_based import functional, layer

T, B, C = 3, 4, 2
SOURCES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: layer.BatchNorm1d(C, step_mode="m", momentum=0.3, eps=0.1), (C,)),
    "BatchNorm2d, plain": (lambda: layer.BatchNorm2d(C, step_mode="m", affine=False), (C, 2, 3)),
    "BatchNorm3d": (lambda: layer.BatchNorm3d(C, step_mode="m"), (C, 2, 1, 3)),
    "no running statistics": (lambda: layer.BatchNorm2d(C, step_mode="m", track_running_stats=False), (C, 2, 3)),
    "tdBN": (lambda: layer.ThresholdDependentBatchNorm1d(0.5, 2.0, C), (C, 5)),
    "TEBN": (lambda: layer.TemporalEffectiveBatchNorm2d(T, C), (C, 2, 3)),
    "BNTT": (lambda: layer.BatchNormThroughTime1d(T, C, step_mode="m"), (C,)),
    "BNTT, plain": (lambda: layer.BatchNormThroughTime2d(T, C, step_mode="m", affine=False), (C, 2, 3)),
}


def filled(module: Any) -> Any:
    """Return the module with parameters and running statistics that are all different."""
    with torch.no_grad():
        for number, value in enumerate([*module.parameters(), *module.buffers()]):
            if value.is_floating_point():
                value.copy_(torch.from_numpy(np.abs(draw(*value.shape, seed=number)) + 0.5))
    return module


def theirs(module: Any, x: np.ndarray, fit: bool) -> np.ndarray:
    y = module.train(fit)(torch.from_numpy(x)).detach().numpy()
    functional.reset_net(module)
    return y


def ours(norm: Any, x: np.ndarray, fit: bool) -> np.ndarray:
    with brainstate.environ.context(fit=fit, i=np.arange(T)):
        return np.asarray(norm(x))


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", SOURCES)
def test_a_step_of_training_and_then_evaluation(case: str) -> None:
    """Here, and after the way back."""
    make, in_size = SOURCES[case]
    module, x = filled(make()), draw(T, B, *in_size, loc=1.0)
    norm = from_spikingjelly(module, in_size)
    if case != "tdBN":
        back = to_spikingjelly(norm)
        assert type(back) is type(module)
        assert back.state_dict().keys() == module.state_dict().keys()
    else:
        back = to_spikingjelly(norm)
        assert type(back) is layer.BatchNorm1d
    for fit in (False, True, False):
        want = theirs(module, x, fit)
        close(ours(norm, x, fit), want)
        close(theirs(back, x, fit), want)


def test_options_of_ours_go_along() -> None:
    module = filled(layer.BatchNorm1d(C, step_mode="m"))
    norm = from_spikingjelly(module, C, unit=u.mV, out_unit=u.nA, momentum=0.5)
    x = draw(T, B, C)
    close((np.asarray(norm.momentum), norm.scale_quantity.unit == u.nA), (0.5, True))
    with brainstate.environ.context(fit=False):
        close(norm(x * u.mV).to_decimal(u.nA), theirs(module, x, False))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (BatchNorm(C), "BatchNorm has unbiased=False, which spikingjelly's BatchNorm lacks. Build the layer with"),
        (BatchNorm((3, C), unbiased=True), r"channels on axes \(1,\) of in_size=\(3, 2\).*feature_axis=0"),
        (BatchNorm(C, unbiased=True, frozen=True), "frozen=True"),
        (BatchNorm(C, unbiased=True, bias_initializer=None), "a scale without a bias"),
        (BatchNorm(C, unbiased=True, unit=u.mV), "unit=mV"),
        (BatchNorm(C, unbiased=True, param_steps=3), "param_steps=3"),
        (tebn(C, T, unbiased=True, gain_power=2), "gain_power=2"),
        (bntt(C, T, unbiased=True, gain_steps=T), "gain_steps=3, gain_power=1, running_steps=3"),
        (BatchNorm(C, unbiased=True, running_steps=T), "a bias, or a scale that is that of all steps"),
    ],
)
def test_what_spikingjelly_lacks_is_named(norm: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=f"to_spikingjelly: .*{message}"):
        to_spikingjelly(norm)


def test_what_ours_lacks_and_other_classes() -> None:
    with pytest.raises(ConversionError, match=r"from_spikingjelly: .*Give in_size=\(2, height, width\)"):
        from_spikingjelly(layer.BatchNorm2d(C))
    with pytest.raises(ConversionError, match="BatchNorm1d has momentum=None, a plain average over all calls"):
        from_spikingjelly(layer.BatchNorm1d(C, momentum=None), C)
    with pytest.raises(ConversionError, match=r"from_spikingjelly: takes BatchNorm1d, .*got torch\.nn"):
        from_spikingjelly(torch.nn.BatchNorm1d(C), C)
    for other in (LayerNorm(C), tab(C, T)):
        with pytest.raises(ConversionError, match="to_spikingjelly: takes BatchNorm, BatchNorm0d"):
            to_spikingjelly(other)

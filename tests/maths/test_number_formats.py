"""Every number format at every scale: what a weight comes back as."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from netopsy.errors import SettingsError
from netopsy.studies.rounding import number_format, round_decimals

INTS = tuple(f"int{bits}_{scale}" for bits in (2, 3, 4, 6, 8, 16) for scale in ("tensor", "channel"))
FLOATS = (
    "bf16",
    "fp16",
    *(f"{kind}{scale}" for kind in ("fp8_e4m3", "fp8_e5m2") for scale in ("", "_tensor", "_channel")),
)
SHAPES = ((4, 3, 3, 3), (5, 7), (6,), (1, 1), (1,))


@pytest.mark.parametrize("name", (*INTS, *FLOATS))
@pytest.mark.parametrize("scale", (1e-45, 1e-42, 1e-38, 1e-30, 1e-6, 1.0, 1e6, 1e30, 3e38))
def test_stays_finite_and_close(name: str, scale: float) -> None:
    form = number_format(name)
    for shape in SHAPES:
        weight = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1) * scale
        back = form.apply(weight)
        assert back.isfinite().all()
        assert back.shape == weight.shape and back.dtype == weight.dtype
        assert float(back.double().abs().max()) <= float(weight.double().abs().max()) * (1 + 2**-2)


@pytest.mark.parametrize("name", INTS)
@pytest.mark.parametrize("scale", (1e-30, 1.0, 1e30))
def test_integers_are_within_half_a_step(name: str, scale: float) -> None:
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(2)) * scale
    form = number_format(name)
    top = 2 ** (form.bits - 1) - 1
    largest = weight.abs().amax(1, keepdim=True) if form.scale == "channel" else weight.abs().max()
    step = largest.double() / top
    error = (form.apply(weight).double() - weight.double()).abs()
    assert (error <= step / 2 * (1 + 1e-4)).all()


@pytest.mark.parametrize("name", (*INTS, "fp8_e4m3_channel", "fp8_e5m2_tensor"))
def test_a_scale_below_the_format_gives_zeros(name: str) -> None:
    weight = torch.zeros(3, 4)
    weight[1, 0] = 1e-44
    weight[2] = 1e-44 if name.endswith("tensor") else 0.5
    back = number_format(name).apply(weight)
    assert torch.equal(back[:2], torch.zeros(2, 4))
    if name.endswith("channel"):
        assert torch.allclose(back[2], weight[2])


@pytest.mark.parametrize("name", (*INTS, *FLOATS))
@pytest.mark.parametrize("value", (0.0, 0.5, -0.5))
def test_all_equal(name: str, value: float) -> None:
    weight = torch.full((3, 4), value)
    assert torch.allclose(number_format(name).apply(weight), weight, rtol=1e-6)


@pytest.mark.parametrize("name", (*INTS, *FLOATS))
@pytest.mark.parametrize("value", (float("nan"), float("inf"), -float("inf")))
def test_refuses_what_is_no_number(name: str, value: float) -> None:
    weight = torch.ones(2, 2)
    weight[0, 1] = value
    with pytest.raises(SettingsError, match="NaN or infinity"):
        number_format(name).apply(weight)


def test_one_channel_does_not_touch_another() -> None:
    weight = torch.tensor([[1e-44, 0.0], [1.0, -0.25], [3e38, 1e38]])
    back = number_format("int8_channel").apply(weight)
    assert torch.equal(back[0], torch.zeros(2))
    assert torch.equal(back[1], number_format("int8_tensor").apply(weight[1]))


def test_decimals_beyond_the_values_digits_leave_them() -> None:
    values = torch.tensor([0.15, 3e38, -2.5e30, 0.0, 1e-44])
    for decimals in (40, 300, 400):
        assert torch.equal(round_decimals(values, decimals), values)
    assert np.allclose(round_decimals(values[:1], 1), 0.2)

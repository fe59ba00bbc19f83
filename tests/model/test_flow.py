"""Flow-matching maths against diffusers' scheduler and pipeline."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

from qwenlab.model.flow import (
    derived_generator,
    inference_sigmas,
    interpolate,
    mu_for_tokens,
    predict_x0,
    sample_sigmas,
    shift_sigma,
    velocity,
)

QWEN_IMAGE = dict(
    use_dynamic_shifting=True,
    base_shift=0.5,
    max_shift=0.9,
    base_image_seq_len=256,
    max_image_seq_len=8192,
    shift_terminal=0.02,
)


def stock_sigmas(scheduler, steps, tokens):
    config = scheduler.config
    mu = calculate_shift(
        tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler.sigmas


@pytest.mark.parametrize("settings", [QWEN_IMAGE, QWEN_IMAGE | {"shift_terminal": None}, {"shift": 3.0}])
@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096, 6889])
@pytest.mark.parametrize("steps", [2, 4, 20, 50])
def test_inference_sigmas_are_the_schedulers(settings, tokens, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    ours = inference_sigmas(steps, tokens, scheduler.config)
    torch.testing.assert_close(ours, stock_sigmas(scheduler, steps, tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side, factor", [(512, 1.71), (1024, 2.00), (1328, 2.30)])
def test_mu_of_qwen_image(side, factor):
    assert np.exp(mu_for_tokens((side // 16) ** 2, QWEN_IMAGE)) == pytest.approx(factor, abs=0.005)


def test_time_runs_from_data_to_noise():
    x0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(interpolate(x0, noise, torch.tensor([0.0, 1.0])), torch.stack([x0[0], noise[1]]))
    torch.testing.assert_close(velocity(x0, noise), interpolate(x0, noise, torch.ones(2)) - x0)


def test_interpolate_is_the_schedulers_scale_noise():
    scheduler = FlowMatchEulerDiscreteScheduler()
    x0, noise, steps = torch.randn(3, 16, 5), torch.randn(3, 16, 5), torch.tensor([0, 400, 999])
    expected = scheduler.scale_noise(x0, scheduler.timesteps[steps], noise)
    torch.testing.assert_close(interpolate(x0, noise, scheduler.sigmas[steps]), expected)


def test_predict_x0_undoes_interpolate():
    x0, noise, sigma = torch.randn(5, 8, 6), torch.randn(5, 8, 6), torch.rand(5)
    x_t = interpolate(x0, noise, sigma)
    torch.testing.assert_close(predict_x0(x_t, velocity(x0, noise), sigma), x0, atol=1e-5, rtol=0)


def test_euler_steps_with_the_true_velocity_reach_the_data():
    scheduler = FlowMatchEulerDiscreteScheduler(**QWEN_IMAGE)
    stock_sigmas(scheduler, 7, 64)
    x0, noise = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    x = noise
    for timestep in scheduler.timesteps:
        x = scheduler.step(velocity(x0, noise), timestep, x, return_dict=False)[0]
    torch.testing.assert_close(x, x0, atol=1e-5, rtol=0)


def test_shift_multiplies_the_odds():
    sigma = torch.tensor([0.0, 0.2, 0.5, 1.0])
    shifted = shift_sigma(sigma, mu=1.0)
    assert shifted[0] == 0 and shifted[-1] == 1
    odds = shifted[1:3] / (1 - shifted[1:3])
    torch.testing.assert_close(odds, np.e * sigma[1:3] / (1 - sigma[1:3]))


def test_sampled_sigmas_have_the_stated_distribution():
    draw = lambda method: sample_sigmas(  # noqa: E731
        40_000, derived_generator(1), method, image_seq_len=4096, scheduler_config=QWEN_IMAGE
    )
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    for method, expected in {
        "uniform": quantiles,
        "logit_normal": torch.sigmoid(torch.distributions.Normal(0, 1).icdf(quantiles)),
        # "As at inference": the quantile function is the scheduler's own list of sigmas, read backwards.
        "shifted": inference_sigmas(10_000, 4096, QWEN_IMAGE)[:-1].flip(0)[(quantiles * 10_000).long()],
    }.items():
        sigmas = draw(method)
        assert sigmas.shape == (40_000,) and 0 <= sigmas.min() and sigmas.max() <= 1
        torch.testing.assert_close(torch.quantile(sigmas, quantiles), expected, atol=0.012, rtol=0)
    assert draw("shifted").min() >= 0.02  # the scheduler never asks for less


def test_sampling_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="unknown sigma sampling 'cosmap'"):
        sample_sigmas(1, derived_generator(0), "cosmap")
    with pytest.raises(ValueError, match="needs image_seq_len"):
        sample_sigmas(1, derived_generator(0), "shifted")


def test_derived_generators_depend_on_every_part_of_the_path():
    draw = lambda *path: float(torch.rand((), generator=derived_generator(*path)))  # noqa: E731
    assert draw(1, "sample", 2, 3) == draw(1, "sample", 2, 3)
    assert len({draw(1, "sample", 2, 3), draw(0, "sample", 2, 3), draw(1, "sample", 3, 2), draw(1, "x", 2, 3)}) == 4

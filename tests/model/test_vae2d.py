"""The folded VAE computes what the stock video VAE computes on still pictures, gradients included."""

import copy

import pytest
import torch
from diffusers import AutoencoderKLQwenImage

from qwenlab.model.vae2d import fold_causal_vae, is_folded, unfold_causal_vae

CONFIGS = {
    "micro": {"base_dim": 8, "num_res_blocks": 1},
    "real": {"base_dim": 8, "num_res_blocks": 2, "dim_mult": [1, 2, 4, 4]},  # the real depth, narrower
}


def build(kind: str) -> AutoencoderKLQwenImage:
    torch.manual_seed(0)
    return AutoencoderKLQwenImage(z_dim=4, latents_mean=[0.0] * 4, latents_std=[1.0] * 4, **CONFIGS[kind]).eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_still_pictures_give_the_same_numbers_and_gradients(kind: str) -> None:
    stock = build(kind)
    folded = fold_causal_vae(copy.deepcopy(stock))
    x = torch.rand(2, 3, 1, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    results = []
    for vae in (stock, folded):
        moments = vae._encode(x)
        latents = vae.encode(x).latent_dist.mode()
        picture = vae.decode(latents).sample
        (picture.square().mean() + moments.square().mean()).backward()
        results.append((moments, picture, {n: p.grad for n, p in vae.named_parameters() if p.grad is not None}))
    (moments, picture, gradients), (moments2, picture2, gradients2) = results
    assert moments.abs().max() > 1e-3 and picture.std() > 1e-3, "the comparison must not be one of zeros"
    torch.testing.assert_close(moments2, moments, rtol=0, atol=1e-5)
    torch.testing.assert_close(picture2, picture, rtol=0, atol=1e-5)
    assert gradients.keys() == gradients2.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients2[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_videos_and_tiles_keep_the_stock_code() -> None:
    stock = build("micro")
    folded = fold_causal_vae(copy.deepcopy(stock))
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        latents = stock.encode(video).latent_dist.mode()
        assert latents.shape[2] == 2
        torch.testing.assert_close(folded.encode(video).latent_dist.mode(), latents, rtol=0, atol=1e-5)
        torch.testing.assert_close(folded.decode(latents).sample, stock.decode(latents).sample, rtol=0, atol=1e-5)
        for vae in (stock, folded):
            vae.enable_tiling(32, 32, 24, 24)
        picture = video[:, :, :1].repeat(1, 1, 1, 2, 2)
        torch.testing.assert_close(
            folded.encode(picture).latent_dist.mode(),
            stock.encode(picture).latent_dist.mode(),
            rtol=0,
            atol=1e-5,
        )


def test_class_and_weights_stay_and_copies_are_independent() -> None:
    vae = build("micro")
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    folded = fold_causal_vae(fold_causal_vae(vae))
    assert folded is vae and type(vae) is AutoencoderKLQwenImage and is_folded(vae)
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    twin = copy.deepcopy(vae)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        x = torch.ones(1, 3, 1, 16, 16)
        assert twin.encode(x).latent_dist.mode().abs().max() == 0
        assert vae.encode(x).latent_dist.mode().abs().max() > 0


def test_other_classes_are_refused() -> None:
    with pytest.raises(TypeError, match="AutoencoderKLQwenImage"):
        fold_causal_vae(torch.nn.Linear(1, 1))


def test_unfolding_leaves_no_trace(tmp_path) -> None:
    vae = build("micro")
    vae.save_pretrained(tmp_path / "before")
    x = torch.rand(1, 3, 1, 32, 32)
    before = vae.encode(x).latent_dist.mode()
    fold_causal_vae(vae)
    vae.save_pretrained(tmp_path / "folded")
    assert unfold_causal_vae(vae) is vae and not is_folded(vae)
    assert torch.equal(vae.encode(x).latent_dist.mode(), before)
    assert unfold_causal_vae(vae) is vae, "a second time does nothing"
    vae.save_pretrained(tmp_path / "after")
    files = [sorted((tmp_path / name).iterdir()) for name in ("before", "folded", "after")]
    contents = [[path.read_bytes() for path in found] for found in files]
    assert contents[0] == contents[1] == contents[2]

"""The fast forward pass is the stock one up to rounding, gradients included, and leaves no trace."""

import pytest
import torch
from torch import nn

from qwenlab.lora.layers import inject_lora, lora_layers
from qwenlab.lora.targets import target_modules
from qwenlab.training.batches import Batch, flow_loss
from qwenlab.training.fast import AddedLoRA, Group, MergedLoRA, fast_forward, is_plain
from tests.tiny import tiny_pipeline


def batch_of(padded, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    return Batch(
        x_t=torch.randn(3, 4, 64, generator=generator), target=torch.randn(3, 4, 64, generator=generator),
        sigma=torch.tensor([0.2, 0.5, 0.9]), text=torch.randn(3, 6, 32, generator=generator),
        text_mask=mask if padded else None, image_shapes=[[(1, 2, 2)]] * 3,
    )  # fmt: skip


def trained(apply_to, dropout=0.0):
    """A tiny transformer with a LoRA that has left zero."""
    transformer = tiny_pipeline().transformer
    parameters = inject_lora(transformer, target_modules(apply_to), rank=4, alpha=6, dropout=dropout, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters.values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return transformer.train(), parameters


def loss_and_gradients(transformer, parameters, batch):
    torch.manual_seed(5)  # for dropout
    for parameter in parameters.values():
        parameter.grad = None
    loss = flow_loss(transformer, batch)
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in parameters.items()}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("apply_to", "dropout", "checkpointing"),
    [
        (["attention+mlp", "modulation"], 0.0, False),
        (["attention+mlp"], 0.0, True),
        (["attention+mlp"], 0.3, False),
        (["attention-4"], 0.0, False),
        (["mlp"], 0.0, False),
    ],
)
def test_loss_and_every_gradient_are_those_of_the_stock_model(apply_to, dropout, checkpointing, padded):
    transformer, parameters = trained(apply_to, dropout)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    batch = batch_of(padded)
    loss, gradients = loss_and_gradients(transformer, parameters, batch)
    with fast_forward(transformer):
        assert all(("forward" in vars(layer)) == (dropout == 0) for layer in lora_layers(transformer).values())
        fast_loss, fast_gradients = loss_and_gradients(transformer, parameters, batch)
    torch.testing.assert_close(fast_loss, loss, rtol=1e-6, atol=0)
    largest = max(gradient.abs().max() for gradient in gradients.values() if gradient is not None)
    for name, gradient in gradients.items():
        if gradient is None:  # what the last block does to the text is thrown away in both
            assert fast_gradients[name] is None, name
        elif fast_gradients[name] is None:
            assert not gradient.any(), name
        else:
            torch.testing.assert_close(fast_gradients[name], gradient, rtol=1e-4, atol=1e-6 * largest.item())


def test_norms_that_are_trained_get_their_gradients():
    transformer, parameters = trained(["attention+mlp"])
    norms = {name: weight for name, weight in transformer.named_parameters() if ".attn.norm_" in name}
    assert len(norms) == 2 * 4
    parameters |= {name: weight.requires_grad_() for name, weight in norms.items()}
    gradients = loss_and_gradients(transformer, parameters, batch_of(True))[1]
    with fast_forward(transformer):
        fast = loss_and_gradients(transformer, parameters, batch_of(True))[1]
    for name in norms:
        torch.testing.assert_close(fast[name], gradients[name], rtol=1e-4, atol=1e-7)


def test_bfloat16_products_change_the_gradients_as_little_as_the_stock_ones():
    transformer, parameters = trained(["attention+mlp", "modulation"])
    exact = loss_and_gradients(transformer, parameters, batch_of(True))[1]

    def error():
        with torch.autocast("cpu", torch.bfloat16):
            gradients = loss_and_gradients(transformer, parameters, batch_of(True))[1]
        names = [name for name, gradient in gradients.items() if gradient is not None]
        wrong = sum((gradients[name] - exact[name]).square().sum() for name in names)
        return (wrong / sum(exact[name].square().sum() for name in names)).sqrt().item()

    stock = error()
    with fast_forward(transformer):
        fast = error()
    assert 0 < fast < 1.2 * stock < 0.1


def two_layers(dtype):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    return draw(5, 3), draw(6), [(draw(4, 3), draw(2, 3), draw(4, 2)), (draw(2, 3), draw(1, 3), draw(2, 1))]


def test_merged_and_added_layers_have_the_right_gradients():
    x, bias, layers = two_layers(torch.float64)
    x.requires_grad_()
    for _, a, b in layers:
        a.requires_grad_(), b.requires_grad_()
    tensors = [tensor for layer in layers for tensor in layer]
    assert torch.autograd.gradcheck(lambda x, *t: MergedLoRA.apply(x, (0.5, 3.0), bias, *t), (x, *tensors))


def test_added_layers_equal_merged_ones():
    x, bias, layers = two_layers(torch.float32)
    results = []
    for function in (MergedLoRA, AddedLoRA):
        inputs = [x.clone().requires_grad_(), *(f.clone().requires_grad_() for _, a, b in layers for f in (a, b))]
        if function is MergedLoRA:
            bases = [weight for weight, _, _ in layers]
            tensors = [t for w, a, b in zip(bases, inputs[1::2], inputs[2::2], strict=True) for t in (w, a, b)]
            y = MergedLoRA.apply(inputs[0], (0.5, 3.0), bias, *tensors)
        else:
            y = AddedLoRA.apply(inputs[0], torch.cat([w for w, _, _ in layers]), bias, (0.5, 3.0), *inputs[1:])
        (y * torch.arange(30.0).view(5, 6)).sum().backward()
        results.append([y.detach(), *(tensor.grad for tensor in inputs)])
    for merged, added in zip(*results, strict=True):
        torch.testing.assert_close(added, merged, rtol=1e-4, atol=1e-4)


def test_nothing_is_left_behind_even_after_an_error(pipeline):
    transformer, _ = trained(["attention+mlp"])
    with pytest.raises(RuntimeError), fast_forward(transformer):
        raise RuntimeError
    assert not any("forward" in vars(module) for module in transformer.modules())


def test_other_models_and_dtypes_are_left_alone():
    transformer, _ = trained(["attention+mlp"])
    for model in (transformer.bfloat16(), nn.Linear(2, 2)):
        with fast_forward(model):
            assert not any("forward" in vars(module) for module in model.modules())


def test_a_quantised_or_merged_layer_falls_back():
    from bitsandbytes.nn import Linear8bitLt

    from qwenlab.lora.layers import LoRALinear

    plain = LoRALinear(nn.Linear(8, 4), rank=2, alpha=2)
    quantised = LoRALinear(Linear8bitLt(8, 4, has_fp16_weights=False), rank=2, alpha=2)
    assert is_plain(plain) and not is_plain(quantised)
    x = torch.randn(3, 8)
    expected = torch.cat([plain(x), plain(x)], dim=-1)
    torch.testing.assert_close(Group([plain, plain])(x), expected)
    plain.merge()
    assert not is_plain(plain)
    torch.testing.assert_close(Group([plain, plain])(x), expected)

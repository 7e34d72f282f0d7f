"""The UNet of guided diffusion (Dhariwal and Nichol 2021), its parts named as in openai/guided-diffusion.

DiffPure and its successors purify ImageNet with the 256x256 unconditional model of that repository.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image, Scalar
from .convolution import Convolution, Pointwise, upsample
from .from_torch import from_torch
from .normalisation import GroupNorm
from .pure import Network
from .unet import sinusoidal

IMAGENET256 = {
    "channels": 256, "multiples": (1, 1, 2, 2, 4, 4), "blocks": 2, "attention_at": (8, 16, 32), "head": 64,
}
"""Sizes of `256x256_diffusion_uncond.pt`: attention where the image is 32, 16 and 8 wide."""


def halved(x: Float[Array, "height width channel"]) -> Float[Array, "height/2 width/2 channel"]:
    """The mean of each 2x2 block of pixels."""
    h, w, c = x.shape
    return x.reshape(h // 2, 2, w // 2, 2, c).mean((1, 3))


RESIZE = {"up": upsample, "down": halved, "keep": lambda x: x}
"""What a residual block does to the size of an image."""


def normalisation(channels: int, rngs: nnx.Rngs) -> GroupNorm:
    """Group normalisation as everywhere in this network."""
    return GroupNorm(channels, 32, epsilon=1e-5, rngs=rngs)


class Residual(nnx.Module):
    """Two normalised convolutions, scaled and shifted by the time between them, added to their input.

    resize: "up", "down" or "keep", of both before the first convolution.
    """

    def __init__(self, c_in: int, c_out: int, time_width: int, resize: str, rngs: nnx.Rngs):
        self.resize = resize
        self.in_layers = nnx.Dict({"0": normalisation(c_in, rngs), "2": Convolution(c_in, c_out, rngs=rngs)})
        self.emb_layers = nnx.Dict({"1": nnx.Linear(time_width, 2 * c_out, rngs=rngs)})
        self.out_layers = nnx.Dict({"0": normalisation(c_out, rngs), "3": Convolution(c_out, c_out, rngs=rngs)})
        self.skip_connection = Pointwise(c_in, c_out, rngs=rngs) if c_in != c_out else None

    def __call__(self, x, embedding):
        resize = RESIZE[self.resize]
        hidden = self.in_layers["2"](resize(nnx.silu(self.in_layers["0"](x))))
        scale, shift = jnp.split(self.emb_layers["1"](embedding), 2)
        hidden = nnx.silu(self.out_layers["0"](hidden) * (1 + scale) + shift)
        x = resize(x)
        return (self.skip_connection(x) if self.skip_connection else x) + self.out_layers["3"](hidden)


class Attention(nnx.Module):
    """Self-attention among the pixels of an image, added to it; `head` channels a head."""

    def __init__(self, channels: int, head: int, rngs: nnx.Rngs):
        self.head, self.norm = head, normalisation(channels, rngs)
        self.qkv = Pointwise(channels, 3 * channels, axes=1, rngs=rngs)
        self.proj_out = Pointwise(channels, channels, axes=1, rngs=rngs)

    def __call__(self, x, embedding):
        tokens = self.norm(x).reshape(-1, x.shape[-1])
        # Query, key and value of one head lie side by side, then those of the next.
        q, k, v = jnp.moveaxis(self.qkv(tokens).reshape(len(tokens), -1, 3, self.head), 2, 0)
        return x + self.proj_out(jax.nn.dot_product_attention(q, k, v).reshape(tokens.shape)).reshape(x.shape)


class GuidedUNet(nnx.Module):
    """eps(x_t, t) for one image x_t [h, w, c] in [-1, 1] and the network's time t, 0..999.

    channels: width of the first level. multiples: of it, the widths of all levels; the image is halved between them,
        so h and w must be divisible by 2^(levels - 1).
    blocks: residual blocks a level on the way down; one more on the way up.
    attention_at: how many times smaller the image is on the levels with attention (1, 2, 4, ...).
    head: channels of an attention head. Widths are multiples of it and of 32.
    learned_sigma: whether the last layer also gives the variance of a reverse step, which `outputs` returns.

    >>> build = partial(GuidedUNet, channels=32, multiples=(1, 2), blocks=1, attention_at=(2,), head=32)
    >>> jax.eval_shape(lambda *inputs: build(rngs=nnx.Rngs(0))(*inputs), jnp.zeros((8, 8, 3)), jnp.float32(3)).shape
    (8, 8, 3)
    """

    def __init__(
        self, channels: int, multiples: Sequence[int], blocks: int, attention_at: Sequence[int], head: int,
        c_image: int = 3, learned_sigma: bool = True, *, rngs: nnx.Rngs,
    ):
        widths, last = [channels * multiple for multiple in multiples], len(multiples) - 1
        bad = [width for width in widths if width % 32]
        bad += [width for level, width in enumerate(widths) if 2**level in attention_at and width % head]
        if bad or widths[-1] % head:
            raise ValueError(f"widths must be multiples of 32, and of the head {head} where there is attention, "
                             f"got {widths}; give the sizes that the weights were published with")
        self.channels, self.c_image, self.levels = channels, c_image, len(widths)
        time_width = 4 * channels
        residual = lambda c_in, c_out, resize="keep": Residual(c_in, c_out, time_width, resize, rngs)
        attention = lambda level, width: [Attention(width, head, rngs)] if 2**level in attention_at else []
        linear = partial(nnx.Linear, rngs=rngs)
        self.time_embed = nnx.Dict({"0": linear(channels, time_width), "2": linear(time_width, time_width)})
        inputs, outputs, skips = [[Convolution(c_image, channels, rngs=rngs)]], [], [channels]
        for level, width in enumerate(widths):
            for _ in range(blocks):
                inputs.append([residual(skips[-1], width), *attention(level, width)])
                skips.append(width)
            if level < last:
                inputs.append([residual(width, width, "down")])
                skips.append(width)
        width = widths[-1]
        middle = [residual(width, width), Attention(width, head, rngs), residual(width, width)]
        for level in reversed(range(len(widths))):
            for block in range(blocks + 1):
                outputs.append([residual(width + skips.pop(), widths[level]), *attention(level, widths[level])])
                width = widths[level]
                if level and block == blocks:
                    outputs[-1].append(residual(width, width, "up"))
        self.input_blocks = nnx.List(map(nnx.List, inputs))
        self.middle_block = nnx.List(middle)
        self.output_blocks = nnx.List(map(nnx.List, outputs))
        c_out = (2 if learned_sigma else 1) * c_image
        self.out = nnx.Dict({"0": normalisation(channels, rngs), "2": Convolution(channels, c_out, rngs=rngs)})

    def outputs(self, x: Image, t: Scalar) -> Float[Array, "height width outputs"]:
        """The noise and, where sigma is learned, v in [-1, 1] of log variance (Nichol and Dhariwal 2021, Eq. 15)."""
        halvings = 2 ** (self.levels - 1)
        if x.shape[0] % halvings or x.shape[1] % halvings:
            raise ValueError(f"image sides must be divisible by {halvings}, got {x.shape}; pad or crop the image")
        sine, cosine = jnp.split(sinusoidal(jnp.asarray(t, jnp.float32), self.channels).astype(x.dtype), 2)
        hidden = nnx.silu(self.time_embed["0"](jnp.concatenate([cosine, sine])))
        embedding = nnx.silu(self.time_embed["2"](hidden))
        x = self.input_blocks[0][0](x)
        skips = [x]
        for block in self.input_blocks[1:]:
            x = run(block, x, embedding)
            skips.append(x)
        x = run(self.middle_block, x, embedding)
        for block in self.output_blocks:
            x = run(block, jnp.concatenate([x, skips.pop()], -1), embedding)
        return self.out["2"](nnx.silu(self.out["0"](x)))

    def __call__(self, x: Image, t: Scalar) -> Image:
        return self.outputs(x, t)[..., : self.c_image]


def run(block: nnx.List, x, embedding):
    """One layer after the other, each of which may use the time."""
    for layer in block:
        x = layer(x, embedding)
    return x


def guided_unet(arrays: Mapping[str, np.ndarray], **sizes) -> Network:
    """The noise predictor with the weights of a PyTorch state dict; strict, as `from_torch`.

    sizes: of `GuidedUNet`; by default those of the 256x256 unconditional ImageNet model, `IMAGENET256`
        (552.8 M parameters).
    """
    return from_torch(partial(GuidedUNet, **(sizes or IMAGENET256)), arrays)


def of_file(arrays: Mapping[str, np.ndarray]) -> Network:
    """As `guided_unet`, its sizes read from the weights: other published sizes, or a narrow one."""
    return guided_unet(arrays, **sizes_of(arrays))


def sizes_of(arrays: Mapping[str, np.ndarray]) -> dict:
    """Sizes of the `GuidedUNet` that has these arrays; `IMAGENET256` where they are none's.

    Heads, which no array tells of, have 64 channels as in all published files, or as many as divide every width.

    >>> sizes_of({}) is IMAGENET256
    True
    """
    shape = lambda name: np.shape(arrays.get(name, ()))
    try:
        outputs = 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("output_blocks."))
        ends = [i for i in range(outputs) if any(f"output_blocks.{i}.{j}.in_layers.0.weight" in arrays for j in (1, 2))]
        run_length = 1 + min(ends, default=outputs - 1)
        levels = [1 + level * run_length for level in range(outputs // run_length)]
        channels, c_image = shape("input_blocks.0.0.weight")[:2]
        widths = [shape(f"input_blocks.{i}.0.out_layers.0.weight")[0] for i in levels]
        learned_sigma = shape("out.2.weight")[0] == 2 * c_image
    except (ValueError, IndexError):
        return IMAGENET256
    return {
        "channels": channels, "multiples": tuple(width // channels for width in widths), "blocks": run_length - 1,
        "attention_at": tuple(2**n for n, i in enumerate(levels) if f"input_blocks.{i}.1.qkv.weight" in arrays),
        "head": math.gcd(64, *widths), "c_image": c_image, "learned_sigma": learned_sigma,
    }

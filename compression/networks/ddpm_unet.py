"""The UNet of DDPM (Ho et al. 2020, App. B), its parts named as in diffusers' `UNet2DModel`."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ..types import Image, Scalar
from .convolution import Convolution, Pointwise, StridedConvolution, upsample
from .from_torch import from_torch
from .normalisation import GroupNorm
from .pure import Network
from .unet import sinusoidal

ALWAYS = {
    "act_fn": ("silu", "swish"), "attn_norm_num_groups": (None,), "center_input_sample": (False,),
    "class_embed_type": (None,), "downsample_type": ("conv",), "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",), "num_class_embeds": (None,), "resnet_time_scale_shift": ("default",),
    "time_embedding_dim": (None,), "time_embedding_type": ("positional",), "upsample_type": ("conv",),
}
"""Settings of `UNet2DModel` that are supported with these values only, which are its defaults."""

UNUSED = ("dropout", "num_train_timesteps", "sample_size")
"""Settings that do not change the function."""

RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention layers in files from before diffusers 0.15."""

UNSEEN = {
    "norm_num_groups": 16, "norm_eps": 1e-5, "attention_head_dim": None, "downsample_padding": 1,
    "flip_sin_to_cos": True, "freq_shift": 0,
}
"""Settings that change the function but no weight's name or shape, as CIFAR-10's published networks have them."""

REMEDY = "give the config.json of an unconditional DDPM (UNet2DModel of diffusers)"


class Residual(nnx.Module):
    """Two normalised convolutions, the time added between them, added to their input."""

    def __init__(self, c_in: int, c_out: int, time_width: int, norm, rngs: nnx.Rngs):
        self.norm1, self.norm2 = norm(c_in), norm(c_out)
        self.conv1, self.conv2 = Convolution(c_in, c_out, rngs=rngs), Convolution(c_out, c_out, rngs=rngs)
        self.time_emb_proj = nnx.Linear(time_width, c_out, rngs=rngs)
        self.conv_shortcut = Pointwise(c_in, c_out, rngs=rngs) if c_in != c_out else None

    def __call__(self, x, embedding):
        hidden = self.conv1(nnx.silu(self.norm1(x))) + self.time_emb_proj(embedding)
        return (self.conv_shortcut(x) if self.conv_shortcut else x) + self.conv2(nnx.silu(self.norm2(hidden)))


class Attention(nnx.Module):
    """Self-attention among the pixels of an image, added to it; `head` channels a head."""

    def __init__(self, channels: int, head: int, norm, rngs: nnx.Rngs):
        self.head, self.group_norm = head, norm(channels)
        self.to_q, self.to_k, self.to_v, out = (nnx.Linear(channels, channels, rngs=rngs) for _ in range(4))
        self.to_out = nnx.List([out])

    def __call__(self, x):
        tokens = self.group_norm(x).reshape(-1, x.shape[-1])
        q, k, v = (f(tokens).reshape(len(tokens), -1, self.head) for f in (self.to_q, self.to_k, self.to_v))
        return x + self.to_out[0](jax.nn.dot_product_attention(q, k, v).reshape(tokens.shape)).reshape(x.shape)


class Blocks(nnx.Module):
    """Residual blocks of the given input widths, each followed by attention where there is some."""

    def __init__(self, widths: Sequence[int], c_out: int, residual, attention):
        self.resnets = nnx.List(residual(width, c_out) for width in widths)
        self.attentions = nnx.List(attention(c_out) for _ in widths if attention)

    def apply(self, index: int, x, embedding):
        x = self.resnets[index](x, embedding)
        return self.attentions[index](x) if self.attentions else x


class DDPMUNet(nnx.Module):
    """eps(x_t, t) for one image x_t [h, w, c] in [-1, 1] and the network's time t, 0..999.

    Arguments are those of diffusers' `UNet2DModel`, with its defaults; the image is halved between levels, so h and w
    must be divisible by 2^(levels - 1).

    block_out_channels: width of each level.
    down_block_types, up_block_types: of each level, with attention or without, in the order in which they are used.
    attention_head_dim: channels of a head; None for one head.
    downsample_padding: 1 where halving pads with zeros on all sides, 0 where on the last two only (Ho et al.).

    >>> levels = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    >>> build = partial(DDPMUNet, block_out_channels=[8, 16], norm_num_groups=4, **levels)
    >>> jax.eval_shape(lambda *inputs: build(rngs=nnx.Rngs(0))(*inputs), jnp.zeros((8, 8, 3)), jnp.float32(3)).shape
    (8, 8, 3)
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: Sequence[int] = (224, 448, 672, 896),
        down_block_types: Sequence[str] = ("DownBlock2D", *("AttnDownBlock2D",) * 3),
        up_block_types: Sequence[str] = (*("AttnUpBlock2D",) * 3, "UpBlock2D"),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        attention_head_dim: int | None = 8,
        add_attention: bool = True,
        downsample_padding: int = 1,
        flip_sin_to_cos: bool = True,
        freq_shift: int | float = 0,
        *,
        rngs: nnx.Rngs,
    ):
        widths, last = list(block_out_channels), len(block_out_channels) - 1
        _check("down_block_types", down_block_types, ("DownBlock2D", "AttnDownBlock2D"), last + 1)
        _check("up_block_types", up_block_types, ("UpBlock2D", "AttnUpBlock2D"), last + 1)
        _check("downsample_padding", [downsample_padding], (0, 1), 1)
        bad = [width for width in widths if width % norm_num_groups or width % (attention_head_dim or width)]
        if bad:
            raise ValueError(f"block_out_channels must be multiples of norm_num_groups {norm_num_groups} and of "
                             f"attention_head_dim {attention_head_dim}, got {bad}; {REMEDY}")
        self.time_width, self.flip, self.shift = widths[0], flip_sin_to_cos, freq_shift
        norm = partial(GroupNorm, groups=norm_num_groups, epsilon=norm_eps, rngs=rngs)
        residual = partial(Residual, time_width=4 * widths[0], norm=norm, rngs=rngs)
        attention = lambda channels: Attention(channels, attention_head_dim or channels, norm, rngs)
        self.time_embedding = nnx.Dict(
            linear_1=nnx.Linear(widths[0], 4 * widths[0], rngs=rngs),
            linear_2=nnx.Linear(4 * widths[0], 4 * widths[0], rngs=rngs),
        )
        self.conv_in = Convolution(in_channels, widths[0], rngs=rngs)
        self.down_blocks, self.up_blocks, skips = nnx.List(), nnx.List(), [widths[0]]
        for level, (width, kind) in enumerate(zip(widths, down_block_types, strict=True)):
            incoming = [skips[-1], *[width] * (layers_per_block - 1)]
            block = Blocks(incoming, width, residual, attention if kind.startswith("Attn") else None)
            skips += [width] * layers_per_block
            if level < last:
                shrink = StridedConvolution(width, width, 3, (downsample_padding, 1), rngs=rngs)
                block.downsamplers = nnx.List([nnx.Dict(conv=shrink)])
                skips.append(width)
            self.down_blocks.append(block)
        middle = widths[-1]
        self.mid_block = nnx.Dict(
            resnets=nnx.List(residual(middle, middle) for _ in range(2)),
            attentions=nnx.List([attention(middle)] if add_attention else []),
        )
        below = middle
        for level, (width, kind) in enumerate(zip(reversed(widths), up_block_types, strict=True)):
            incoming = [c_in + skips.pop() for c_in in (below, *[width] * layers_per_block)]
            block = Blocks(incoming, width, residual, attention if kind.startswith("Attn") else None)
            if level < last:
                block.upsamplers = nnx.List([nnx.Dict(conv=Convolution(width, width, rngs=rngs))])
            self.up_blocks.append(block)
            below = width
        self.conv_norm_out = norm(widths[0])
        self.conv_out = Convolution(widths[0], out_channels, rngs=rngs)

    def __call__(self, x: Image, t: Scalar) -> Image:
        halvings = 2 ** (len(self.down_blocks) - 1)
        if x.shape[0] % halvings or x.shape[1] % halvings:
            raise ValueError(f"image sides must be divisible by {halvings}, got {x.shape}; pad or crop the image")
        embedding = sinusoidal(jnp.asarray(t, jnp.float32), self.time_width, shift=self.shift).astype(x.dtype)
        embedding = jnp.roll(embedding, self.flip * (self.time_width // 2))
        hidden = nnx.silu(self.time_embedding.linear_1(embedding))
        embedding = nnx.silu(self.time_embedding.linear_2(hidden))
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for index in range(len(block.resnets)):
                x = block.apply(index, x, embedding)
                skips.append(x)
            for step in getattr(block, "downsamplers", ()):
                x = step.conv(x)
                skips.append(x)
        x = self.mid_block.resnets[0](x, embedding)
        for attention in self.mid_block.attentions:
            x = attention(x)
        x = self.mid_block.resnets[1](x, embedding)
        for block in self.up_blocks:
            for index in range(len(block.resnets)):
                x = block.apply(index, jnp.concatenate([x, skips.pop()], -1), embedding)
            for step in getattr(block, "upsamplers", ()):
                x = step.conv(upsample(x))
        return self.conv_out(nnx.silu(self.conv_norm_out(x)))


def configured(config: Mapping[str, Any]) -> Callable[..., DDPMUNet]:
    """How to build the network of diffusers' `config.json`; ValueError that names what in it is not supported."""
    known = [name for name in signature(DDPMUNet.__init__).parameters if name not in ("self", "rngs")]
    settings = {name: value for name, value in config.items() if not name.startswith("_") and name not in UNUSED}
    wrong = [
        f"{name} {value!r}" + (f" instead of {ALWAYS[name][0]!r}" if name in ALWAYS else "")
        for name, value in settings.items() if name not in known and value not in ALWAYS.get(name, ())
    ]
    if wrong:
        raise ValueError(f"the UNet is configured in ways that are not supported: {'; '.join(wrong)}; {REMEDY}")
    return partial(DDPMUNet, **{name: value for name, value in settings.items() if name in known})


def unseen(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights do not show of diffusers' `config.json`, where it differs from UNSEEN.

    >>> unseen({"norm_num_groups": 16, "attention_head_dim": None, "freq_shift": 1})
    {'freq_shift': 1}
    """
    told = {name: config.get(name, signature(DDPMUNet.__init__).parameters[name].default) for name in UNSEEN}
    return {name: value for name, value in told.items() if value != UNSEEN[name]}


def ddpm_unet(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Network:
    """The network of diffusers' `config.json` with the weights of its state dict; strict, as `from_torch`.

    Attention layers may have their present names or those of files from before diffusers 0.15, each one of them.
    """
    build = configured(config)
    if doubled := [f"{name} and {_renamed(name)}" for name in arrays if name != _renamed(name) in arrays]:
        raise ValueError(f"expected each attention layer by one name, got {'; '.join(doubled)}; remove those that are "
                         "not meant")
    return from_torch(build, {_renamed(name): array for name, array in arrays.items()})


def _renamed(name: str) -> str:
    return re.sub(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.", lambda m: f"{m[1]}.{RENAMED[m[2]]}.", name)


def _check(name: str, values: Sequence, allowed: Sequence, length: int) -> None:
    if len(values) != length or any(value not in allowed for value in values):
        raise ValueError(f"{name} must be {length} of {', '.join(map(str, allowed))}, got {list(values)}; {REMEDY}")

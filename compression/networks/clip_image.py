"""The image tower of CLIP (Radford et al. 2021): a vision transformer, named as in Hugging Face's files."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image
from .from_torch import from_torch
from .preprocessing import resize_bicubic, rgb
from .pure import Network

IGNORED = ("text_model.*", "text_projection.*", "logit_scale", "vision_model.embeddings.position_ids")
"""What files of the whole model hold beside the image tower: the text tower, and constants."""

HEAD = 64
"""Width of one attention head in every published size."""

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""Of the pixels that the weights were trained on, by channel."""


class Attention(nnx.Module):
    """Self-attention among tokens [n, width] with heads of 64."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))

    def __call__(self, x):
        q, k, v = (f(x).reshape(len(x), -1, HEAD) for f in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


class Perceptron(nnx.Module):
    """Two dense layers with x sigmoid(1.702 x) between them, OpenAI's approximation of GELU."""

    def __init__(self, width: int, inner: int, rngs: nnx.Rngs):
        self.fc1, self.fc2 = nnx.Linear(width, inner, rngs=rngs), nnx.Linear(inner, width, rngs=rngs)

    def __call__(self, x):
        hidden = self.fc1(x)
        return self.fc2(hidden * nnx.sigmoid(1.702 * hidden))


class Layer(nnx.Module):
    """Attention and perceptron, each normalised before and added to its input."""

    def __init__(self, width: int, inner: int, rngs: nnx.Rngs):
        self.layer_norm1, self.layer_norm2 = _layer_norm(width, rngs), _layer_norm(width, rngs)
        self.self_attn, self.mlp = Attention(width, rngs), Perceptron(width, inner, rngs)

    def __call__(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipImage(nnx.Module):
    """The embedding [dims], not normalised, of one image of any size and 1 or 3 channels, in [0, 1].

    side: of the square image that the transformer sees; the shorter side is resized to it and the middle kept.
    patch: side of a patch, a divisor of `side`. width: of a token, a multiple of 64. inner: of the perceptrons.
    """

    def __init__(
        self, side: int, patch: int, width: int, inner: int, layers: int, dims: int, *, rngs: nnx.Rngs
    ):
        if side % patch or width % HEAD:
            raise ValueError(f"expected a patch that divides the side and a width of heads of {HEAD}, "
                             f"got patch {patch}, side {side} and width {width}")
        self.side = side
        tokens = 1 + (side // patch) ** 2
        self.vision_model = nnx.Dict(
            embeddings=nnx.Dict(
                class_embedding=nnx.Param(jax.random.normal(rngs.params(), (width,))),
                patch_embedding=nnx.Conv(3, width, (patch, patch), patch, padding="VALID", use_bias=False, rngs=rngs),
                position_embedding=nnx.Embed(tokens, width, rngs=rngs),
            ),
            pre_layrnorm=_layer_norm(width, rngs),
            encoder=nnx.Dict(layers=nnx.List(Layer(width, inner, rngs) for _ in range(layers))),
            post_layernorm=_layer_norm(width, rngs),
        )
        self.visual_projection = nnx.Linear(width, dims, use_bias=False, rngs=rngs)

    def __call__(self, x: Image) -> Float[Array, "dims"]:
        model, embeddings = self.vision_model, self.vision_model.embeddings
        patches = embeddings.patch_embedding((resize_bicubic(rgb(x), self.side) - MEAN) / STD)
        tokens = jnp.concatenate([embeddings.class_embedding[None], patches.reshape(-1, patches.shape[-1])])
        tokens = model.pre_layrnorm(tokens + embeddings.position_embedding.embedding[...])
        for layer in model.encoder.layers:
            tokens = layer(tokens)
        return self.visual_projection(model.post_layernorm(tokens[0]))


def clip_image(arrays: Mapping[str, np.ndarray]) -> Network:
    """The network, its sizes and weights from a CLIPModel or CLIPVisionModelWithProjection of Hugging Face.

    arrays: of a ViT of OpenAI's (ViT-B/32, B/16, L/14; their GELU is an approximation that other weights may not
        have used). ValueError unless they are exactly those of an image tower, or of the whole model.
    """
    ndims = {
        "vision_model.embeddings.patch_embedding.weight": 4, "vision_model.embeddings.position_embedding.weight": 2,
        "vision_model.encoder.layers.0.mlp.fc1.weight": 2, "visual_projection.weight": 2,
    }
    bad = [name for name, ndim in ndims.items() if np.ndim(arrays.get(name)) != ndim]
    if bad:
        raise ValueError(f"the weights are not of CLIP's image tower with its projection: {', '.join(bad)} missing or "
                         "of another shape; give the file published for a CLIPModel or CLIPVisionModelWithProjection")
    (width, _, patch, _), (tokens, _), (inner, _), (dims, _) = (arrays[name].shape for name in ndims)
    layers = sum(fnmatchcase(name, "vision_model.encoder.layers.*.mlp.fc1.weight") for name in arrays)
    build = partial(ClipImage, patch * math.isqrt(tokens - 1), patch, width, inner, layers, dims)
    return from_torch(build, arrays, IGNORED)


def _layer_norm(width, rngs):
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

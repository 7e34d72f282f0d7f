"""Wide residual networks (Zagoruyko and Komodakis 2016) for CIFAR, named as in xternalz/WideResNet-pytorch.

RobustBench's WideResNets of that origin have the same names (its `Standard`, Carmon et al. 2019, TRADES, ...).
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..types import Image, Logits
from .convolution import Convolution, Pointwise
from .from_torch import from_torch
from .preprocessing import rgb
from .pure import Network
from .resnet import Statistics, batch_norm, chain, conv3x3

IGNORED = ("*.num_batches_tracked", "sub_block1.*")
"""What weight files hold beside the network: counters of the training, and a level of TRADES' that nothing calls."""

AS_IT_IS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Mean and standard deviation of pixels that are not normalised, as for most robust models."""


class Block(nnx.Module):
    """Two 3x3 convolutions after normalisation and ReLU; where the width changes, the input is so prepared too."""

    def __init__(self, c_in: int, c_out: int, stride: int, rngs: nnx.Rngs):
        self.bn1, self.conv1 = batch_norm(c_in, rngs), conv3x3(c_in, c_out, stride, rngs)
        self.bn2, self.conv2 = batch_norm(c_out, rngs), conv3x3(c_out, c_out, 1, rngs)
        self.convShortcut = Pointwise(c_in, c_out, stride, use_bias=False, rngs=rngs) if c_in != c_out else None

    def __call__(self, x):
        prepared = nnx.relu(self.bn1(x))
        hidden = self.conv2(nnx.relu(self.bn2(self.conv1(prepared))))
        return hidden + (self.convShortcut(prepared) if self.convShortcut else x)


class WideResNet(nnx.Module):
    """Logits of one small image in [0, 1] with 1 or 3 channels.

    depth: 6n + 4 layers. widen: how many times as wide as 16, 32, 64 the three levels are.

    >>> import jax, jax.numpy as jnp
    >>> logits = lambda x: WideResNet(10, 2, AS_IT_IS, classes=10, rngs=nnx.Rngs(0))(x)
    >>> jax.eval_shape(logits, jnp.zeros((8, 8, 3))).shape
    (10,)
    """

    def __init__(self, depth: int, widen: int, statistics: Statistics, classes: int, *, rngs: nnx.Rngs):
        if depth < 10 or depth % 6 != 4 or widen < 1:
            raise ValueError("a WideResNet has 6n + 4 layers (28, 34, 70, ...) and a factor of at least 1, "
                             f"got {depth} and {widen}; take both from the weights' name, WRN-<depth>-<factor>")
        self.statistics = tuple(map(tuple, statistics))
        self.conv1 = Convolution(3, 16, use_bias=False, rngs=rngs)
        c_in = 16
        for level in (1, 2, 3):
            c_out, blocks = 16 * widen * 2 ** (level - 1), nnx.List()
            for stride in (1 if level == 1 else 2, *(1,) * ((depth - 4) // 6 - 1)):
                blocks.append(Block(c_in, c_out, stride, rngs))
                c_in = c_out
            setattr(self, f"block{level}", nnx.Dict(layer=blocks))
        self.bn1 = batch_norm(c_in, rngs)
        self.fc = nnx.Linear(c_in, classes, rngs=rngs)

    def features(self, x: Image) -> Float[Array, "d"]:
        """What the last layer reads: the mean over the image of the last level's channels."""
        mean, std = np.asarray(self.statistics, np.float32)
        x = self.conv1((rgb(x) - mean) / std)
        for block in (self.block1, self.block2, self.block3):
            x = chain(block.layer, x)
        return nnx.relu(self.bn1(x)).mean((0, 1))

    def __call__(self, x: Image) -> Logits:
        return self.fc(self.features(x))


def wide_resnet(
    arrays: Mapping[str, np.ndarray], depth: int = 28, widen: int = 10, classes: int = 10,
    statistics: Statistics = AS_IT_IS,
) -> Network:
    """WideResNet-28-10 (36.5 M parameters) or another, with the weights of a PyTorch state dict; strict.

    statistics: mean and standard deviation by channel of the pixels that the weights were trained on; by default the
        network takes pixels in [0, 1] as they are.
    """
    return from_torch(partial(WideResNet, depth, widen, statistics, classes), arrays, IGNORED)


def of_file(arrays: Mapping[str, np.ndarray], **settings) -> Network:
    """As `wide_resnet`, its depth and factor read from the names and shapes of the weights.

    settings: `classes` and `statistics`.
    """
    blocks = len([name for name in arrays if fnmatchcase(name, "block1.layer.*.conv1.weight")])
    width = np.shape(arrays.get("block1.layer.0.conv1.weight", ()))[:1]
    sizes = {"depth": 6 * blocks + 4, "widen": max(1, width[0] // 16)} if blocks and width else {}
    return wide_resnet(arrays, **sizes, **settings)

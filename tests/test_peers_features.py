"""Inception-v3 and CLIP's image tower against PyTorch's definitions with the same random weights."""

import jax
import numpy as np
import pytest
from flax import nnx

from purimetry.compression import features
from purimetry.compression.networks import clip_image, inception, preprocessing

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
F = torch.nn.functional

DEEP = 1e-4  # of the largest feature: float32 through up to 48 layers of sums of up to 10^4 products


def first(x):
    """[h, w, c] to torch's [1, c, h, w]."""
    return torch.tensor(np.array(x)).permute(2, 0, 1)[None]


def last(x):
    return x[0].permute(1, 2, 0).detach().numpy()


def close(ours, theirs, tolerance):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


resize_bicubic = jax.jit(preprocessing.resize_bicubic, static_argnums=1)


def image(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 40, 1), (320, 400, 3)])
def test_inception_resizes_as_torch_without_antialiasing(shape):
    """As pytorch-fid does."""
    theirs = F.interpolate(first(image(*shape)), size=(299, 299), mode="bilinear", align_corners=False)
    # Source coordinates of order 400 in float32.
    ours = jax.jit(preprocessing.resize_bilinear, static_argnums=1)(image(*shape), 299)
    np.testing.assert_allclose(ours, last(theirs), atol=1e-4)


@pytest.mark.parametrize("shape, inner, top, left", [
    ((32, 32, 3), (224, 224), 0, 0), ((28, 40, 1), (224, 320), 0, 48), ((400, 300, 3), (298, 224), 37, 0)])
def test_clip_resizes_and_crops_as_torch_with_antialiasing(shape, inner, top, left):
    """As Pillow, which CLIP's preprocessing uses, but for its rounding."""
    theirs = F.interpolate(first(image(*shape)), size=inner, mode="bicubic", align_corners=False, antialias=True)
    theirs = last(theirs.clamp(0, 1))[top : top + 224, left : left + 224]
    np.testing.assert_allclose(resize_bicubic(image(*shape), 224), theirs, atol=1e-4)


@pytest.mark.parametrize("shape", [(32, 32, 3), (300, 300, 3)])
def test_clip_resizes_as_pillow(shape):
    pillow = pytest.importorskip("PIL.Image")
    pixels = (80 + 80 * image(*shape)).astype(np.uint8)  # far from where overshoots would be clipped
    theirs = np.asarray(pillow.fromarray(pixels).resize((224, 224), pillow.Resampling.BICUBIC)) / 255
    ours = resize_bicubic(pixels / 255, 224)
    np.testing.assert_allclose(ours, theirs, atol=1.6 / 255)  # Pillow rounds to bytes after each of its two passes


class Unit(torch.nn.Module):
    def __init__(self, c_in, c_out, size, stride=1, padding=0):
        super().__init__()
        self.conv = torch.nn.Conv2d(c_in, c_out, size, stride, padding, bias=False)
        self.bn = torch.nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Parts(torch.nn.Module):
    """Units by their names, each given as (c_in, c_out, size, stride, padding)."""

    def __init__(self, **units):
        super().__init__()
        for name, geometry in units.items():
            setattr(self, name, Unit(*geometry))


def averaged(x):
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(Parts):
    def __init__(self, c_in, pooled):
        super().__init__(
            branch1x1=(c_in, 64, 1), branch5x5_1=(c_in, 48, 1), branch5x5_2=(48, 64, 5, 1, 2),
            branch3x3dbl_1=(c_in, 64, 1), branch3x3dbl_2=(64, 96, 3, 1, 1), branch3x3dbl_3=(96, 96, 3, 1, 1),
            branch_pool=(c_in, pooled, 1))

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(averaged(x))], 1)


class BlockB(Parts):
    def __init__(self, c_in):
        super().__init__(branch3x3=(c_in, 384, 3, 2), branch3x3dbl_1=(c_in, 64, 1), branch3x3dbl_2=(64, 96, 3, 1, 1),
                         branch3x3dbl_3=(96, 96, 3, 2))

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(Parts):
    def __init__(self, c_in, c7):
        wide, tall = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        super().__init__(
            branch1x1=(c_in, 192, 1),
            branch7x7_1=(c_in, c7, 1), branch7x7_2=(c7, c7, *wide), branch7x7_3=(c7, 192, *tall),
            branch7x7dbl_1=(c_in, c7, 1), branch7x7dbl_2=(c7, c7, *tall), branch7x7dbl_3=(c7, c7, *wide),
            branch7x7dbl_4=(c7, c7, *tall), branch7x7dbl_5=(c7, 192, *wide),
            branch_pool=(c_in, 192, 1))

    def forward(self, x):
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(averaged(x))], 1)


class BlockD(Parts):
    def __init__(self, c_in):
        super().__init__(
            branch3x3_1=(c_in, 192, 1), branch3x3_2=(192, 320, 3, 2),
            branch7x7x3_1=(c_in, 192, 1), branch7x7x3_2=(192, 192, (1, 7), 1, (0, 3)),
            branch7x7x3_3=(192, 192, (7, 1), 1, (3, 0)), branch7x7x3_4=(192, 192, 3, 2))

    def forward(self, x):
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(Parts):
    def __init__(self, c_in, pool):
        wide, tall = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        super().__init__(
            branch1x1=(c_in, 320, 1),
            branch3x3_1=(c_in, 384, 1), branch3x3_2a=(384, 384, *wide), branch3x3_2b=(384, 384, *tall),
            branch3x3dbl_1=(c_in, 448, 1), branch3x3dbl_2=(448, 384, 3, 1, 1),
            branch3x3dbl_3a=(384, 384, *wide), branch3x3dbl_3b=(384, 384, *tall),
            branch_pool=(c_in, 192, 1))
        self.pool = pool

    def forward(self, x):
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat([
            self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pool(x))], 1)


@pytest.fixture(scope="module")
def peer():
    """Inception-v3 of the Fréchet Inception distance, its blocks in order, with random weights and statistics."""
    torch.manual_seed(0)
    largest = lambda x: F.max_pool2d(x, 3, stride=1, padding=1)
    network = torch.nn.ModuleDict(dict(
        Conv2d_1a_3x3=Unit(3, 32, 3, 2), Conv2d_2a_3x3=Unit(32, 32, 3), Conv2d_2b_3x3=Unit(32, 64, 3, 1, 1),
        maxpool1=torch.nn.MaxPool2d(3, 2), Conv2d_3b_1x1=Unit(64, 80, 1), Conv2d_4a_3x3=Unit(80, 192, 3),
        maxpool2=torch.nn.MaxPool2d(3, 2),
        Mixed_5b=BlockA(192, 32), Mixed_5c=BlockA(256, 64), Mixed_5d=BlockA(288, 64), Mixed_6a=BlockB(288),
        Mixed_6b=BlockC(768, 128), Mixed_6c=BlockC(768, 160), Mixed_6d=BlockC(768, 160), Mixed_6e=BlockC(768, 192),
        Mixed_7a=BlockD(768), Mixed_7b=BlockE(1280, averaged), Mixed_7c=BlockE(2048, largest),
        fc=torch.nn.Linear(2048, 1008))).eval()
    for name, array in network.state_dict().items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(array)
        elif name.endswith(("bn.bias", "running_mean")):
            torch.nn.init.normal_(array, std=0.2)
        elif name.endswith(("bn.weight", "running_var")):
            torch.nn.init.uniform_(array, 0.5, 1.5)
    return network


def arrays_of(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


@jax.jit
def each_step(network, x):
    module, states = nnx.merge(network.graph, network.state), []
    for step in inception.STEPS:
        x = inception.apply(module, step, x)
        states.append(x)
    return states


def test_every_block_of_inception_equals_torchs(peer):
    """On 95x107 pixels, where the last blocks are 1 and 2 pixels wide and borders matter most."""
    x = 2 * image(95, 107, 3) - 1
    states, theirs = each_step(inception.inception(arrays_of(peer)), x), first(x)
    for ours, (name, block) in zip(states, list(peer.items())[:-1], strict=True):
        theirs = block(theirs)
        assert np.abs(last(theirs)).max() > 1e-2, name
        close(ours, last(theirs), DEEP)


@pytest.mark.parametrize("dims, shape", [(2048, (32, 32, 3)), (768, (8, 8, 1))])
def test_inception_features_equal_torchs(peer, dims, shape, tmp_path):
    torch.save(peer.state_dict(), tmp_path / "inception.pth")
    x = F.interpolate(first(image(*shape)).expand(1, 3, -1, -1), size=(299, 299), mode="bilinear", align_corners=False)
    x = 2 * x - 1
    for name, block in peer.items():
        x = block(x)
        if name == {2048: "Mixed_7c", 768: "Mixed_6e"}[dims]:
            break
    theirs = x.mean((2, 3))[0].detach().numpy()
    ours = jax.jit(lambda network, x: network(x))(features.inception(tmp_path / "inception.pth", dims), image(*shape))
    assert ours.shape == (dims,)
    close(ours, theirs, DEEP)


def test_clip_embedding_equals_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(image_size=32, patch_size=8, hidden_size=128, intermediate_size=160, num_hidden_layers=2)
    configuration = transformers.CLIPVisionConfig(**sizes, num_attention_heads=2, projection_dim=24)
    peer = transformers.CLIPVisionModelWithProjection(configuration).eval()
    for name, array in peer.named_parameters():  # no bias 0, no scale 1; embeddings so small that an epsilon matters
        torch.nn.init.normal_(array, mean=0.0 if "embedding" in name else 0.1, std=0.01 if "embedding" in name else 0.2)
    network = clip_image.clip_image(arrays_of(peer))
    for shape in [(32, 32, 3), (20, 30, 1)]:
        x = jax.jit(preprocessing.rgb)(resize_bicubic(image(*shape), 32))
        normalised = (np.asarray(x) - clip_image.MEAN) / clip_image.STD
        theirs = peer(pixel_values=first(normalised)).image_embeds[0].detach().numpy()
        close(jax.jit(lambda network, x: network(x))(network, image(*shape)), theirs, 1e-5)  # float32, 2 layers

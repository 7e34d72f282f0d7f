"""Published architectures against PyTorch's definitions, with the same random weights and statistics."""

import os
import re
from functools import partial

import jax
import numpy as np
import pytest

from purimetry.compression import weights
from purimetry.compression.batches import over_images
from purimetry.compression.networks import ddpm_unet, guided_unet, resnet, wide_resnet
from purimetry.compression.networks.from_torch import from_torch

pytestmark = [pytest.mark.peer, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

DEEP = 1e-5  # of the largest output: float32 through up to 20 layers of sums of up to 10^3 products


def arrays_of(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def randomised(network):
    """No weight that is 0 or 1 at the start stays so, or what it multiplies would not be compared."""
    torch.manual_seed(0)
    for name, array in network.state_dict().items():
        if array.ndim < 2 and array.is_floating_point():
            spread = (0.5, 1.5) if name.endswith(("weight", "running_var")) else (-0.3, 0.3)
            nn.init.uniform_(array, *spread)
        elif array.ndim > 1:
            nn.init.kaiming_normal_(array)
    return network.eval()


def normalised(x, statistics):
    """Images [n, h, w, c] as torch's [n, c, h, w], of mean 0 and variance 1."""
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    return (torch.tensor(np.asarray(x)).permute(0, 3, 1, 2) - mean) / std


def outputs(network, x):
    return jax.jit(jax.vmap(lambda network, x: network(x), (None, 0)))(network, x)


def assert_equal(ours, theirs, tolerance=DEEP):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def conv(c_in, c_out, size=3, stride=1):
    return nn.Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=False)


class Basic(nn.Module):
    def __init__(self, c_in, c_out, stride, option):
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = conv(c_out, c_out), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        self.extra = (c_out - c_in) // 2 if option == "A" else None
        if option == "B" and (stride != 1 or c_in != c_out):
            self.shortcut = nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            return F.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra)))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, c_in, width, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(c_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or c_in != 4 * width:
            self.downsample = nn.Sequential(conv(c_in, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(nn.Module):
    def __init__(self, option, widths, depth):
        super().__init__()
        self.conv1, self.bn1 = conv(3, widths[0]), nn.BatchNorm2d(widths[0])
        self.levels, c_in = len(widths), widths[0]
        for level, width in enumerate(widths, 1):
            first = Basic(c_in, width, 1 if level == 1 else 2, option)
            rest = [Basic(width, width, 1, option) for _ in range(depth - 1)]
            setattr(self, f"layer{level}", nn.Sequential(first, *rest))
            c_in = width
        self.linear = nn.Linear(c_in, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for level in range(1, self.levels + 1):
            x = getattr(self, f"layer{level}")(x)
        return self.linear(x.mean((2, 3)))


class ImageNetResNet(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.conv1, self.bn1 = conv(3, widths[0], 7, 2), nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(widths[0], widths[0], 1), Bottleneck(4 * widths[0], widths[0], 1))
        self.layer2 = nn.Sequential(Bottleneck(4 * widths[0], widths[1], 2))
        self.fc = nn.Linear(4 * widths[1], 7)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layer2(self.layer1(x)), 1), 1))


@pytest.mark.parametrize("option, shortcut", [("A", resnet.zero_pad), ("B", resnet.projection)])
def test_cifar_resnets_equal_torchs(option, shortcut):
    widths, statistics = (4, 8, 16), resnet.CIFAR10
    peer = randomised(CifarResNet(option, widths, 2))
    build = partial(resnet.CifarResNet, partial(resnet.Basic, shortcut), widths, (2, 2, 2), statistics, 10)
    x = np.random.default_rng(0).uniform(size=(3, 10, 14, 3)).astype(np.float32)
    ours = outputs(from_torch(build, arrays_of(peer), resnet.IGNORED), x)
    assert_equal(ours, peer(normalised(x, statistics)))


def test_imagenet_resnet_equals_torchs():
    peer = randomised(ImageNetResNet((4, 8)))
    build = partial(resnet.ImageNetResNet, resnet.Bottleneck, (4, 8), (2, 1), resnet.IMAGENET, 7)
    x = np.random.default_rng(0).uniform(size=(3, 37, 44, 3)).astype(np.float32)
    ours = outputs(from_torch(build, arrays_of(peer), resnet.IGNORED), x)
    assert_equal(ours, peer(normalised(x, resnet.IMAGENET)))


def test_published_resnet20_has_its_accuracy_on_all_test_images(real_cifar10):
    if "PURIMETRY_RESNET20" not in os.environ:
        pytest.skip("PURIMETRY_RESNET20 does not name weights of akamaster/pytorch_resnet_cifar10 as .safetensors")
    arrays, data = weights.load_published(os.environ["PURIMETRY_RESNET20"]), real_cifar10
    ours = over_images(lambda network, x: network(x), (resnet.resnet20(arrays),), data.test_images[:])
    peer = CifarResNet("A", (16, 32, 64), 3)
    peer.load_state_dict(peer.state_dict() | {name: torch.tensor(array) for name, array in arrays.items()})
    assert_equal(ours[:500], peer.eval()(normalised(data.test_images[:500], resnet.IMAGENET)))
    # Published: an error of 8.27 %.
    assert 100 * (ours.argmax(1) == data.test_labels).mean() == pytest.approx(91.73, abs=0.25)


class WideBlock(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), conv(c_in, c_out, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), conv(c_out, c_out)
        self.convShortcut = conv(c_in, c_out, 1, stride) if c_in != c_out else None

    def forward(self, x):
        before = F.relu(self.bn1(x))
        after = self.conv2(F.relu(self.bn2(self.conv1(before))))
        return after + (self.convShortcut(before) if self.convShortcut else x)


class WideLevel(nn.Module):
    def __init__(self, c_in, c_out, blocks, stride):
        super().__init__()
        rest = [WideBlock(c_out, c_out, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(c_in, c_out, stride), *rest)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, widen):
        super().__init__()
        widths, blocks = [16, 16 * widen, 32 * widen, 64 * widen], (depth - 4) // 6
        self.conv1 = conv(3, 16)
        self.block1 = WideLevel(16, widths[1], blocks, 1)
        self.sub_block1 = WideLevel(16, widths[1], blocks, 1)
        self.block2 = WideLevel(widths[1], widths[2], blocks, 2)
        self.block3 = WideLevel(widths[2], widths[3], blocks, 2)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], 10)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


def test_wide_resnet_equals_torchs():
    peer = randomised(WideResNet(16, 2))
    x = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    statistics = wide_resnet.AS_IT_IS
    ours = outputs(wide_resnet.wide_resnet(arrays_of(peer), 16, 2, statistics=statistics), x)
    assert_equal(ours, peer(normalised(x, statistics)))


LIKE_HO = dict(  # google/ddpm-cifar10-32 but for its widths (128 to 256), groups (32) and two layers a block
    down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], block_out_channels=[16, 32, 32], norm_num_groups=8,
    layers_per_block=1, attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
    norm_eps=1e-6,
)
PLAIN = dict(
    down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, block_out_channels=[16, 24],
    norm_num_groups=8, norm_eps=1e-5, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0,
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("config", [
    LIKE_HO, PLAIN | {"layers_per_block": 2, "attention_head_dim": 8},
    PLAIN | {"layers_per_block": 1, "add_attention": False},
], ids=["Ho et al.", "heads", "without attention"])
def test_ddpm_unet_equals_diffusers_at_several_times(config, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    peer = randomised(diffusers.UNet2DModel(sample_size=16, **config))
    peer.save_pretrained(tmp_path)
    network = weights.ddpm_unet(tmp_path)
    before_0_15 = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = {re.sub("to_[qkv]|to_out.0", lambda m: before_0_15[m[0]], name): array
              for name, array in arrays_of(peer).items()}
    jax.tree.map(np.testing.assert_array_equal, ddpm_unet.ddpm_unet(config, arrays), network)
    x, t = np.random.default_rng(0).normal(size=(3, 16, 8, 3)).astype(np.float32), np.float32([0, 99, 999])
    ours = jax.jit(jax.vmap(lambda network, x, t: network(x, t), (None, 0, 0)))(network, x, t)
    theirs = peer(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor([0, 99, 999])).sample
    assert_equal(ours, theirs.permute(0, 2, 3, 1), 5e-5)  # and sines of angles up to 999 in float32


class Timed(nn.Sequential):
    def forward(self, x, embedding):
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, GuidedBlock) else layer(x)
        return x


class GuidedBlock(nn.Module):
    """guided-diffusion's ResBlock with use_scale_shift_norm."""

    def __init__(self, c_in, c_out, time_width, resize=None):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.resize = {"up": nn.Upsample(scale_factor=2), "down": nn.AvgPool2d(2), None: nn.Identity()}[resize]
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip_connection = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x, embedding):
        h = self.in_layers[-1](self.resize(self.in_layers[:-1](x)))
        scale, shift = torch.chunk(self.emb_layers(embedding)[:, :, None, None], 2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(self.resize(x)) + h


class GuidedAttention(nn.Module):
    """guided-diffusion's AttentionBlock with its default order of queries, keys and values, by heads."""

    def __init__(self, channels, head):
        super().__init__()
        self.head, self.norm = head, nn.GroupNorm(32, channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        flat = x.flatten(2)
        heads = self.qkv(self.norm(flat)).unflatten(1, (-1, 3 * self.head)).transpose(2, 3)
        out = F.scaled_dot_product_attention(*heads.split(self.head, dim=3)).transpose(2, 3).flatten(1, 2)
        return (flat + self.proj_out(out)).unflatten(2, x.shape[2:])


class GuidedUNet(nn.Module):
    """Two levels, of widths 32 and 64, with one block each and attention on the second."""

    def __init__(self):
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(32, 128), nn.SiLU(), nn.Linear(128, 128))
        block, attention = partial(GuidedBlock, time_width=128), partial(GuidedAttention, head=32)
        self.input_blocks = nn.ModuleList([
            Timed(nn.Conv2d(3, 32, 3, padding=1)), Timed(block(32, 32)), Timed(block(32, 32, resize="down")),
            Timed(block(32, 64), attention(64))])
        self.middle_block = Timed(block(64, 64), attention(64), block(64, 64))
        self.output_blocks = nn.ModuleList([
            Timed(block(64 + 64, 64), attention(64)),
            Timed(block(64 + 32, 64), attention(64), block(64, 64, resize="up")),
            Timed(block(64 + 32, 32)), Timed(block(32 + 32, 32))])
        self.out = nn.Sequential(nn.GroupNorm(32, 32), nn.SiLU(), nn.Conv2d(32, 6, 3, padding=1))

    def forward(self, x, t):
        angles = t[:, None] * 10_000 ** (-torch.arange(16) / 16)
        embedding, skips = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1)), []
        for block in self.input_blocks:
            x = block(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], 1), embedding)
        return self.out(x)


def test_guided_unet_equals_torchs():
    peer = randomised(GuidedUNet())
    sizes = dict(channels=32, multiples=(1, 2), blocks=1, attention_at=(2,), head=32)
    network = guided_unet.guided_unet(arrays_of(peer), **sizes)
    x, t = np.random.default_rng(0).normal(size=(2, 8, 4, 3)).astype(np.float32), np.float32([0, 999])
    ours = jax.jit(jax.vmap(lambda network, x, t: network(x, t), (None, 0, 0)))(network, x, t)
    theirs = peer(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor([0, 999])).permute(0, 2, 3, 1)
    assert_equal(ours, theirs[..., :3], 5e-5)  # and cosines of angles up to 999 in float32

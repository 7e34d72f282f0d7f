"""Published weights: files of both kinds, the strict importer, and the published sizes of the networks that use it."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from purimetry.compression import features, weights
from purimetry.compression.networks import (
    clip_image, ddpm_unet, guided_unet, inception, preprocessing, resnet, wide_resnet,
)
from purimetry.compression.networks.from_torch import from_torch
from purimetry.compression.networks.pure import blueprint
from purimetry.compression.records import RecordError


def layers(rngs):
    return nnx.Dict(
        parts=nnx.List([nnx.Conv(2, 3, (1, 5), use_bias=False, rngs=rngs), nnx.Linear(4, 5, rngs=rngs)]),
        norm=nnx.BatchNorm(3, use_running_average=True, rngs=rngs),
    )


@pytest.fixture
def arrays():
    shapes = {
        "parts.0.weight": (3, 2, 1, 5), "parts.1.weight": (5, 4), "parts.1.bias": (5,),
        "norm.weight": (3,), "norm.bias": (3,), "norm.running_mean": (3,), "norm.running_var": (3,),
    }
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape) for name, shape in shapes.items()}


def test_importer_turns_kernels_and_renames_statistics(arrays):
    network = from_torch(layers, arrays | {"norm.num_batches_tracked": np.array(3)}, ["*.num_batches_tracked"])
    module = nnx.merge(network.graph, network.state)
    convolution, dense = module.parts
    assert convolution.kernel.shape == (1, 5, 2, 3)
    np.testing.assert_array_equal(convolution.kernel[0, 4, 1], arrays["parts.0.weight"][:, 1, 0, 4].astype(np.float32))
    np.testing.assert_array_equal(dense.kernel[...].T, arrays["parts.1.weight"].astype(np.float32))
    np.testing.assert_array_equal(module.norm.mean[...], arrays["norm.running_mean"].astype(np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(network)} == {jnp.dtype("float32")}


def test_importer_names_everything_that_differs(arrays):
    del arrays["norm.running_var"]
    arrays["parts.1.weight"] = arrays["parts.1.weight"].T
    arrays["norm.bias"][1] = np.nan
    arrays["head.weight"] = np.zeros(3)
    with pytest.raises(ValueError) as caught:
        from_torch(layers, arrays, ["fc.*"])
    for difference in ["missing norm.running_var", "unexpected head.weight",
                       "parts.1.weight (4, 5) instead of (5, 4)", "norm.bias not finite"]:
        assert difference in str(caught.value)


def test_importer_counts_differences_beyond_the_first():
    with pytest.raises(ValueError, match=r"missing Conv2d_1a_3x3\.bn\.bias; .* and 450 more; give the file published"):
        inception.inception({})  # 94 convolutions of 5 arrays


HO_CIFAR10 = dict(  # config.json of google/ddpm-cifar10-32
    act_fn="silu", attention_head_dim=None, block_out_channels=[128, 256, 256, 256], center_input_sample=False,
    down_block_types=["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], downsample_padding=0,
    flip_sin_to_cos=False, freq_shift=1, in_channels=3, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-6,
    norm_num_groups=32, out_channels=3, sample_size=32, time_embedding_type="positional",
    up_block_types=["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
)


@pytest.mark.parametrize("build, parameters", [
    (inception.Inception, 27_161_264 - 2_049_000 - 3_326_696),  # torchvision's, without its two classifiers
    (partial(clip_image.ClipImage, 224, 32, 768, 3072, 12, 512), 87_849_216),
    (partial(clip_image.ClipImage, 224, 16, 768, 3072, 12, 512), 86_192_640),
    (partial(clip_image.ClipImage, 224, 14, 1024, 4096, 24, 768), 303_966_208),
    (resnet.cifar_resnet(20), 269_722),  # akamaster/pytorch_resnet_cifar10 states 0.27 M and 0.85 M
    (resnet.cifar_resnet(56), 853_018),
    (resnet.cifar_resnet18(), 11_173_962),
    (resnet.imagenet_resnet50(), 25_557_032),  # torchvision's
    (partial(wide_resnet.WideResNet, 28, 10, wide_resnet.AS_IT_IS, 10), 36_479_194),  # xternalz: 36.5 M
    (ddpm_unet.configured(HO_CIFAR10), 35_746_307),  # Ho et al., App. B: 35.7 M
    (partial(guided_unet.GuidedUNet, **guided_unet.IMAGENET256), 552_814_086),  # guided-diffusion's, unconditional
], ids=["Inception-v3", "ViT-B/32", "ViT-B/16", "ViT-L/14",
        "ResNet-20", "ResNet-56", "ResNet-18", "ResNet-50", "WRN-28-10", "DDPM", "guided"])
def test_networks_have_the_published_number_of_parameters(build, parameters):
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(blueprint(build), nnx.Param))) == parameters


@pytest.mark.parametrize("dims, shape", [(2048, (32, 32, 3)), (768, (8, 8, 1)), (192, (300, 400, 3)), (64, (8, 8, 1))])
def test_inception_gives_the_dimensions_asked_for_at_any_size(dims, shape):
    network = blueprint(partial(inception.Inception, dims))
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert jax.eval_shape(lambda network, x: network(x), network, x).shape == (dims,)


def test_inception_refuses_other_dimensions():
    with pytest.raises(ValueError, match="features of 64, 192, 768, 2048 dimensions, not 512"):
        inception.Inception(512, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("depth, widen", [(27, 10), (4, 10), (28, 0)])
def test_wide_resnets_have_depths_of_their_own(depth, widen):
    with pytest.raises(ValueError, match=rf"6n \+ 4 layers .* got {depth} and {widen}"):
        wide_resnet.wide_resnet({}, depth, widen)


@pytest.mark.parametrize("changed, message", [
    ({"act_fn": "gelu"}, "act_fn 'gelu' instead of 'silu'"),
    ({"class_embed_type": "timestep"}, "class_embed_type 'timestep' instead of None"),
    ({"cross_attention_dim": 768}, "cross_attention_dim 768"),
    ({"down_block_types": ["SkipDownBlock2D"] * 4}, "down_block_types must be 4 of DownBlock2D, AttnDownBlock2D"),
    ({"up_block_types": ["UpBlock2D"] * 3}, "up_block_types must be 4 of UpBlock2D, AttnUpBlock2D"),
    ({"downsample_padding": 2}, "downsample_padding must be 1 of 0, 1, got [2]"),
    ({"norm_num_groups": 24}, "multiples of norm_num_groups 24 and of attention_head_dim None, got [128, 256"),
])
def test_unets_configured_in_other_ways_are_refused(changed, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ddpm_unet.ddpm_unet(HO_CIFAR10 | changed, {})


def test_unets_with_an_attention_layer_by_two_names_are_refused():
    names = [f"mid_block.attentions.0.{layer}.weight" for layer in ("query", "to_q", "to_out.0", "proj_attn", "key")]
    message = "got {0} and {1}; {3} and {2}; remove those that are not meant".format(*names)
    with pytest.raises(ValueError, match=re.escape(message)):
        ddpm_unet.ddpm_unet(HO_CIFAR10, dict.fromkeys(names, np.zeros((256, 256), np.float32)))


@pytest.mark.parametrize("sizes", [{"channels": 48}, {"head": 48}, {"head": 48, "attention_at": ()}])
def test_guided_unets_of_impossible_widths_are_refused(sizes):
    sizes = {"channels": 32, "multiples": (1, 2), "blocks": 1, "attention_at": (1,), "head": 32} | sizes
    with pytest.raises(ValueError, match=r"multiples of 32, and of the head \d\d .* got \[\d\d, \d\d\]"):
        guided_unet.guided_unet({}, **sizes)


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_without_a_config_is_refused(content, tmp_path):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(RecordError, match="expected diffusers' config.json in .*; give the folder of a UNet2DModel"):
        weights.ddpm_unet(tmp_path)


@pytest.mark.parametrize("place", ["scheduler", "unet"])
def test_a_pipelines_scheduler_has_a_say(place, tmp_path):
    """A network that predicts something else than noise is refused, one of another schedule is warned of."""
    folder, told = tmp_path / "unet", tmp_path / place / "scheduler_config.json"
    folder.mkdir(), told.parent.mkdir(exist_ok=True)
    told.write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(ValueError, match="the network predicts v_prediction, expected epsilon"):
        weights.ddpm_unet(folder)
    told.write_text('{"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}')
    with (pytest.warns(UserWarning, match="another schedule than linear.*squaredcos_cap_v2.*sample with the same"),
          pytest.raises(weights.RecordError, match=r"expected diffusers' config\.json")):
        weights.ddpm_unet(folder)


@pytest.mark.parametrize("text", ["{", "[]", '"linear"'])
def test_a_scheduler_that_says_nothing_of_the_kind_is_refused(text, tmp_path):
    (tmp_path / "scheduler_config.json").write_text(text)
    with pytest.raises(RecordError, match="scheduler_config.json is not a scheduler's configuration .*; download it"):
        weights.other_schedule(tmp_path)


def test_a_card_says_until_when_a_network_was_trained_and_what_it_predicts(tmp_path):
    assert weights.card(tmp_path) == (None, None)
    (tmp_path / "card.json").write_text('{"loss": 0.03}')
    assert weights.card(tmp_path) == (None, None)
    (tmp_path / "card.json").write_text('{"trained_until": 250, "loss": 0.03, "predicts": "velocity"}')
    assert weights.card(tmp_path) == (250, "velocity")


@pytest.mark.parametrize("text", [
    "{", "[250]", '{"trained_until": "250"}', '{"trained_until": 0}', '{"predicts": "x0"}'])
def test_a_card_that_says_nothing_of_the_kind_is_refused(text, tmp_path):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(RecordError, match=r'card.json is not a card .*; expected {"trained_until": 250'):
        weights.card(tmp_path)


@pytest.mark.parametrize("build, sides", [
    (ddpm_unet.configured(HO_CIFAR10), (32, 28)),
    (partial(guided_unet.GuidedUNet, 32, (1, 2, 2, 2), 1, (), 32), (28, 32)),
], ids=["DDPM", "guided"])
def test_sides_that_cannot_be_halved_are_refused(build, sides):
    network = blueprint(build)
    with pytest.raises(ValueError, match=rf"divisible by 8, got \({sides[0]}, {sides[1]}, 3\)"):
        network(jnp.zeros((*sides, 3)), jnp.float32(0))


@pytest.mark.parametrize("depth", [2, 18, 51])
def test_cifar_resnets_have_depths_of_their_own(depth):
    with pytest.raises(ValueError, match=rf"6n \+ 2 layers: 20, 32, 44, 56, 110; got {depth}"):
        resnet.cifar_resnet(depth)


@pytest.mark.parametrize("shape", [(8, 8, 2), (8, 8)])
def test_images_are_grey_or_coloured(shape, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users do not run under the tests' type checker
    with pytest.raises(ValueError, match="1 or 3 channels, got"):
        preprocessing.rgb(jnp.zeros(shape))


WIDTH, INNER, DIMS, PATCH, TOKENS, DEPTH = 64, 96, 24, 4, 1 + 3 * 3, 2
NORM = {"weight": (WIDTH,), "bias": (WIDTH,)}
LAYER = {
    **{f"self_attn.{name}_proj": {"weight": (WIDTH, WIDTH), "bias": (WIDTH,)} for name in ("q", "k", "v", "out")},
    "layer_norm1": NORM, "layer_norm2": NORM,
    "mlp.fc1": {"weight": (INNER, WIDTH), "bias": (INNER,)}, "mlp.fc2": {"weight": (WIDTH, INNER), "bias": (WIDTH,)},
}
TOWER = {
    "vision_model.embeddings": {"class_embedding": (WIDTH,)},
    "vision_model.embeddings.patch_embedding": {"weight": (WIDTH, 3, PATCH, PATCH)},
    "vision_model.embeddings.position_embedding": {"weight": (TOKENS, WIDTH)},
    "vision_model.pre_layrnorm": NORM, "vision_model.post_layernorm": NORM,
    **{f"vision_model.encoder.layers.{i}.{name}": shapes for i in range(DEPTH) for name, shapes in LAYER.items()},
    "visual_projection": {"weight": (DIMS, WIDTH)},
}


def tower():
    generator = np.random.default_rng(0)
    return {f"{part}.{name}": generator.normal(scale=0.1, size=shape).astype(np.float32)
            for part, shapes in TOWER.items() for name, shape in shapes.items()}


def test_clip_reads_the_image_tower_alone_and_from_the_whole_model(tmp_path):
    rest = {"text_model.final_layer_norm.bias": np.zeros(5, np.float32), "logit_scale": np.float32([4.6]),
            "text_projection.weight": np.zeros((3, 5), np.float32),
            "vision_model.embeddings.position_ids": np.arange(TOKENS)[None]}
    embed, embedded = jax.jit(lambda network, x: network(x)), []
    for name, content in {"tower": tower(), "whole": tower() | rest}.items():
        save_file(content, tmp_path / f"{name}.safetensors")
        network = features.clip(tmp_path / f"{name}.safetensors")
        grey = np.linspace(0, 1, 8 * 8).reshape(8, 8, 1)
        embedded += [embed(network, x) for x in (grey, np.tile(grey, 3))]
    assert embedded[0].shape == (DIMS,)
    for other in embedded[1:]:
        np.testing.assert_allclose(other, embedded[0], rtol=1e-5, atol=1e-6)  # float32


@pytest.mark.parametrize("changed, message", [
    ({"visual_projection.weight": None}, "visual_projection.weight missing or of another shape"),
    ({"visual_projection.weight": np.zeros(DIMS)}, "visual_projection.weight missing or of another shape"),
    ({"vision_model.encoder.layers.1.mlp.fc2.bias": None}, "missing vision_model.encoder.layers.1.mlp.fc2.bias"),
    ({"vision_model.head.weight": np.zeros(3)}, "unexpected vision_model.head.weight"),
    ({"vision_model.embeddings.position_embedding.weight": np.zeros((TOKENS + 1, WIDTH))},
     r"position_embedding.weight (11, 64) instead of (10, 64)"),
    ({"vision_model.embeddings.patch_embedding.weight": np.zeros((48, 3, PATCH, PATCH))}, "heads of 64, got patch 4"),
])
def test_clip_refuses_weights_of_another_network(changed, message):
    arrays = {name: array for name, array in (tower() | changed).items() if array is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        clip_image.clip_image(arrays)


def test_safetensors_are_read_in_any_precision(tmp_path):
    content = {"half": np.float16([1.5]), "brain": np.array([2.5], ml_dtypes.bfloat16), "count": np.array([7])}
    save_file(content, tmp_path / "w.safetensors")
    found = weights.load_published(tmp_path / "w.safetensors")
    assert {name: (array.dtype.name, array.item()) for name, array in found.items()} == {
        "half": ("float32", 1.5), "brain": ("float32", 2.5), "count": ("int64", 7)}


HEADER = b'{"conv.weight": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}'
EIGHT_BITS = len(HEADER).to_bytes(8, "little") + HEADER + b"\x38"


@pytest.mark.parametrize("name, content, message", [
    ("missing.safetensors", None, "there is no file"),
    ("cut.safetensors", b"\x10\x00\x00", "truncated or damaged"),
    ("eight.safetensors", EIGHT_BITS, r"eight.safetensors: conv.weight cannot become an array .*; save it as a dense"),
    ("weights.npz", b"", "expected a file .safetensors, .pth, .pt or .bin"),
])
def test_files_that_cannot_be_read_are_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=message):
        weights.load_published(tmp_path / name)


def test_the_prefix_of_parallel_training_is_dropped_where_all_names_have_it(tmp_path):
    save_file({"module.conv.weight": np.ones(2, np.float32)}, tmp_path / "all.safetensors")
    save_file({"module.a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}, tmp_path / "some.safetensors")
    assert list(weights.load_published(tmp_path / "all.safetensors")) == ["conv.weight"]
    assert set(weights.load_published(tmp_path / "some.safetensors")) == {"module.a", "b"}

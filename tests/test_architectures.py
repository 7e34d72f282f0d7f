"""Networks that a run reads from files: sizes from the weights, and what cannot be is said before anything compiles."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from purimetry.compression.data.dataset import DataError, only_test
from purimetry.compression.networks import ddpm_unet, guided_unet, resnet, wide_resnet
from purimetry.compression.networks.from_torch import shapes_of
from purimetry.compression.records import RecordError
from purimetry.experiments import architectures
from purimetry.experiments.architectures import CLASSIFIERS, DENOISERS
from purimetry.experiments.command_line import main
from purimetry.experiments.configuration import Configuration
from safetensors.numpy import save_file

NARROW = dict(channels=32, multiples=(1, 2), blocks=1, attention_at=(2,), head=32, c_image=3, learned_sigma=True)


def arrays_of(build):
    """A state dict of zeros that takes no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes_of(build).items()}


def saved(path, build):
    """A file of weights; statistics of normalisations are what they have to be."""
    arrays = {name: np.ones(shape, np.float32) if name.endswith("var") else np.zeros(shape, np.float32)
              for name, shape in shapes_of(build).items()}
    save_file(arrays, path)
    return path


@pytest.mark.parametrize("sizes", [
    guided_unet.IMAGENET256 | {"c_image": 3, "learned_sigma": True},
    dict(channels=192, multiples=(1, 2, 3, 4), blocks=3, attention_at=(2, 4, 8), head=64, c_image=3,
         learned_sigma=False),
    NARROW, NARROW | {"multiples": (1,), "attention_at": (1,), "blocks": 2, "c_image": 1},
], ids=["ImageNet 256", "ImageNet 64", "narrow", "one level"])
def test_a_guided_unets_sizes_are_read_from_its_weights(sizes):
    found = guided_unet.sizes_of(arrays_of(partial(guided_unet.GuidedUNet, **sizes)))
    assert found | {"attention_at": set(found["attention_at"])} == sizes | {"attention_at": set(sizes["attention_at"])}


def test_weights_of_another_network_are_compared_with_the_published_unet():
    with pytest.raises(ValueError, match="not of this network: missing input_blocks.0.0.bias"):
        guided_unet.of_file(arrays_of(resnet.cifar_resnet(20)))


@pytest.mark.parametrize("depth, widen", [(10, 1), (16, 2), (28, 1)])
def test_a_wide_resnets_depth_and_factor_are_read_from_its_weights(depth, widen):
    build = partial(wide_resnet.WideResNet, depth, widen, wide_resnet.AS_IT_IS, 7)
    assert wide_resnet.of_file(arrays_of(build), classes=7).graph == wide_resnet.wide_resnet(
        arrays_of(build), depth, widen, classes=7).graph


def test_a_bottleneck_resnets_depth_and_width_are_read_from_its_weights():
    depths, widths = (2, 1, 3, 1), (4, 8, 4, 8)
    build = partial(resnet.ImageNetResNet, resnet.Bottleneck, widths, depths, resnet.IMAGENET, 7)
    network = resnet.bottleneck_resnet(arrays_of(build), classes=7)
    assert sum(leaf.size for leaf in jax.tree.leaves(network)) == sum(map(np.prod, shapes_of(build).values()))


def test_help_names_every_architecture(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*CLASSIFIERS, *DENOISERS))


@pytest.mark.parametrize("name, build", [
    ("resnet20", resnet.cifar_resnet(20, classes=100)),
    ("wide-resnet", partial(wide_resnet.WideResNet, 10, 1, wide_resnet.AS_IT_IS, 100)),
    ("bottleneck-resnet",
     partial(resnet.ImageNetResNet, resnet.Bottleneck, (4, 4, 4, 4), (1,) * 4, resnet.IMAGENET, 100)),
])
def test_a_classifier_has_as_many_classes_as_its_file(name, build, tmp_path):
    given = architectures.classifier(f"{name}:{saved(tmp_path / 'w.safetensors', build)}")
    images = only_test("large", np.zeros((2, 32, 32, 3), np.float32), [0, 99])
    architectures.check_classifier(given, images)
    assert given.determinants == {"architecture": name, "sha256": given.sha256} and len(given.sha256) == 64
    with pytest.raises(DataError, match="labels of large run to 100, but this .* has 100 classes, 0..99"):
        architectures.check_classifier(given, images._replace(test_labels=np.array([0, 100])))
    architectures.check_classifier(given, images, class_folders=100)
    with pytest.raises(DataError, match="large has 2 folders of classes, .* 100 classes; make a folder for each"):
        architectures.check_classifier(given, images, class_folders=2)


@pytest.mark.parametrize("side, channels, message", [
    (31, 3, "images have 31x31 pixels, but resnet20 is for sides of 32; choose another --image-size"),
    (32, 2, "does not take images of"),
])
def test_a_classifier_refuses_images_of_another_shape(side, channels, message, tmp_path, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users do not run under the tests' type checker
    given = architectures.classifier(f"resnet20:{saved(tmp_path / 'w.safetensors', resnet.cifar_resnet(20))}")
    with pytest.raises(DataError, match=message):
        architectures.check_classifier(given, only_test("odd", np.zeros((2, side, side, channels), np.float32), [0, 1]))


def test_a_resnet_of_imagenet_refuses_what_its_halvings_leave_nothing_of(tmp_path):
    build = partial(resnet.ImageNetResNet, resnet.Bottleneck, (4, 4, 4, 4), (1,) * 4, resnet.IMAGENET, 10)
    given = architectures.classifier(f"bottleneck-resnet:{saved(tmp_path / 'w.safetensors', build)}")
    with pytest.raises(DataError, match="28x28 pixels, but bottleneck-resnet is for sides of 32 or more"):
        architectures.check_classifier(given, only_test("small", np.zeros((2, 28, 28, 3), np.float32), [0, 1]))


def diffusers_folder(path, side=8, **other):
    config = dict(
        down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, block_out_channels=[8, 8],
        norm_num_groups=4, layers_per_block=1, in_channels=3, out_channels=3, sample_size=side,
    ) | other
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    saved(path / "diffusion_pytorch_model.safetensors", ddpm_unet.configured(config))
    return path


@pytest.mark.parametrize("name, value", [
    ("norm_num_groups", 2), ("norm_eps", 1e-6), ("attention_head_dim", 4), ("downsample_padding", 0),
    ("flip_sin_to_cos", False), ("freq_shift", 1),
])
def test_settings_that_weights_do_not_show_tell_networks_apart(name, value, tmp_path):
    one, other = diffusers_folder(tmp_path / "one"), diffusers_folder(tmp_path / "other", **{name: value})
    for read in (architectures.denoiser, architectures.velocity):
        ours, theirs = read(str(one)).determinants, read(str(other)).determinants
        assert ours["sha256"] == theirs["sha256"]
        assert {**ours["config"], name: value} == theirs["config"] != ours["config"]


def test_a_noise_predictor_of_diffusers_is_for_images_of_its_own_size(tmp_path):
    folder = diffusers_folder(tmp_path / "unet")
    alone, named = architectures.denoiser(str(folder)), architectures.denoiser(f"diffusers:{folder}")
    assert alone.determinants == named.determinants and alone.architecture == "diffusers"
    images = lambda side, channels=3: only_test("x", np.zeros((2, side, side, channels), np.float32), [0, 1])
    architectures.check_predictor(alone, images(8))
    with pytest.raises(DataError, match="images have 16x16 pixels, but diffusers is for sides of 8; choose another"):
        architectures.check_predictor(alone, images(16))
    with pytest.raises(DataError, match=r"this diffusers does not take images of \(8, 8, 1\)"):
        architectures.check_predictor(alone, images(8, 1))


@pytest.mark.parametrize("place", ["scheduler", "unet"])
def test_a_pipeline_of_another_schedule_is_not_run_on_the_linear_one(place, tmp_path):
    folder = diffusers_folder(tmp_path / "unet")
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "scheduler_config.json").write_text('{"beta_schedule": "linear", "beta_end": 0.05}')
    with pytest.raises(ValueError, match=r"another schedule than the linear one .*\{'beta_end': 0.05\}"):
        architectures.denoiser(str(folder))


def test_a_velocity_is_not_taken_for_noise(tmp_path):
    folder = diffusers_folder(tmp_path / "unet")
    assert architectures.velocity(str(folder)).sha256 == architectures.denoiser(str(folder)).sha256  # no card, no word
    (folder / "card.json").write_text('{"predicts": "velocity", "trained_until": 150}')
    assert architectures.velocity(f"diffusers:{folder}").trained_until == 150
    with pytest.raises(ValueError, match="--denoiser .* predicts velocity, expected noise; give it to --velocity"):
        architectures.denoiser(str(folder))
    (folder / "card.json").write_text('{"predicts": "noise"}')
    with pytest.raises(ValueError, match="--velocity .* predicts noise, expected velocity; give it to --denoiser"):
        architectures.velocity(str(folder))
    with pytest.raises(ValueError, match="expected ARCHITECTURE:PATH with one of diffusers"):
        architectures.velocity("guided:256x256_diffusion_uncond.pt")


def test_a_guided_unet_refuses_sides_that_it_cannot_halve(tmp_path):
    file = saved(tmp_path / "w.safetensors", partial(guided_unet.GuidedUNet, **NARROW))
    given = architectures.denoiser(f"guided:{file}")
    images = lambda side: only_test("x", np.zeros((2, side, side, 3), np.float32), [0, 1])
    architectures.check_predictor(given, images(6))
    with pytest.raises(DataError, match=r"this guided does not take images of \(7, 7, 3\) \(image sides must be div"):
        architectures.check_predictor(given, images(7))


@pytest.mark.parametrize("read, given, error, message", [
    (architectures.classifier, "resnet21:{file}", ValueError, "expected ARCHITECTURE:PATH with one of resnet18, "),
    (architectures.classifier, "{file}", ValueError, "expected ARCHITECTURE:PATH with one of resnet18, "),
    (architectures.classifier, "resnet20:nowhere.pth", ValueError, "there is no nowhere.pth; download the weights"),
    (architectures.classifier, "resnet18:{file}", ValueError, "--classifier resnet18:.* not of this network: missing"),
    (architectures.classifier, "wide-resnet:{file}", ValueError, "missing block1.layer.0.bn1.bias"),
    (architectures.classifier, "resnet50:{file}", ValueError, "missing fc.bias"),
    (architectures.classifier, "resnet20:{folder}", RecordError, "there is no file"),
    (architectures.denoiser, "guided:{file}", ValueError, "--denoiser guided:.* missing input_blocks.0.0.bias"),
    (architectures.denoiser, "diffusers:{file}", RecordError, "expected diffusers' config.json"),
    (architectures.denoiser, "{folder}", RecordError, "expected diffusers' config.json"),
    (architectures.denoiser, "nowhere", ValueError, "with one of diffusers, guided, or FILE.py:NAME for a function"),
    (architectures.classifier, "perfect:cls", ValueError, "or FILE.py:NAME for .*; of CIFAR-10, robust is one that"),
    (architectures.velocity, "publishd", ValueError, "or FILE.py:NAME for .*; of CIFAR-10, published is one that"),
])
def test_what_cannot_be_read_is_said(read, given, error, message, tmp_path):
    file = saved(tmp_path / "w.safetensors", resnet.cifar_resnet(20))
    with pytest.raises(error, match=message):
        read(given.format(file=file, folder=tmp_path))


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes with an image each, and the same as .npz."""
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((40, 50, 3), 200, np.uint8)).save(tmp_path / "photos" / name / "1.png")
    np.savez(tmp_path / "photos.npz", images=np.zeros((2, 32, 32, 3), np.uint8), labels=np.array([0, 1]))
    return tmp_path


@pytest.mark.parametrize("arguments, message", [
    (["--dataset", "cifar11"], "--dataset cifar11: expected digits, cifar10, cifar100, a folder of images or an .npz"),
    (["--dataset", "{here}/none.npz"], "cannot be read as .npz"),
    (["--dataset", "{here}/photos.npz"], "photos has no images to train a classifier or a denoiser on; give --class"),
    (["--dataset", "{here}/photos"], "and would be enlarged to 256; give 40 or less, by size=N or --image-size N"),
    (["--dataset", "{here}/photos", "--image-size", "40", "--classifier", "resnet20:{here}/w.safetensors"],
     "images have 40x40 pixels, but resnet20 is for sides of 32; choose another --image-size"),
    (["--dataset", "{here}/photos", "--image-size", "32", "--classifier", "resnet20:{here}/w.safetensors"],
     "photos has 2 folders of classes, numbered from 0, but this resnet20 has 10 classes"),
    (["--dataset", "{here}/photos.npz", "--classifier", "resnet20:{here}/w.safetensors"],
     "photos has no images to train a denoiser on; give --denoiser ARCHITECTURE:PATH or FILE.py:NAME"),
])
def test_a_run_that_cannot_be_is_refused_before_any_work(arguments, message, photos, capsys, monkeypatch):
    import warnings

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` says warnings its own way
    saved(photos / "w.safetensors", resnet.cifar_resnet(20))
    diffusers_folder(photos / "unet", 32)
    given = [argument.format(here=photos) for argument in arguments]
    assert main(["run", "training", "--images", "2", "--out", str(photos / "out"), *given]) == 1
    assert message in capsys.readouterr().err
    assert not (photos / "out").exists()


def test_where_images_lie_does_not_determine_records(photos):
    one = Configuration(dataset=str(photos / "photos"), image_size=64)
    assert one.determinants() == Configuration(dataset=str(photos / "photos") + "/").determinants()
    assert one.determinants()["dataset"] == "photos" and one.resolved().subset_seed == 0
    assert Configuration().determinants()["dataset"] == "digits"


def test_cifars_resnet20_is_its_classifier(tmp_path):
    file = saved(tmp_path / "w.safetensors", resnet.cifar_resnet(20))
    assert Configuration(dataset="cifar10", resnet20=file).resolved().classifier == f"resnet20:{file}"
    assert Configuration(resnet20=file).resolved().classifier is None

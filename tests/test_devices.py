"""One program for one device or many: the same bits from both, and a clear word where memory is too small."""

import os
import pickle
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from purimetry.compression import batches
from purimetry.compression.batches import OutOfMemory, calls_of, over_images, shard_size

MEASURE = """
import sys
import jax, numpy as np
import purimetry as pm
from functools import partial
from purimetry.compression.networks.pure import blueprint

data, n, draw = pm.digits(), 13, np.random.default_rng(2)
images, xi = data.test_images[:n], pm.configurations(0, np.arange(n))
drawn = lambda build: jax.device_put(jax.tree.map(lambda w: 0.5 * draw.normal(size=w.shape), pm.pure(blueprint(build))))
denoiser = drawn(partial(pm.UNet, 1, (4,), groups=4))
classifier = drawn(partial(pm.ConvNet, (8, 8, 1), 10, (4,)))
purifier = pm.diffusion(denoiser, pm.ddpm(pm.respaced(pm.linear(), 100), t_star=2))
labels = np.argmax(jax.jit(jax.vmap(classifier))(images), 1)
eps = np.full(n, 0.1, np.float32)
rates = pm.over_images(partial(pm.expected_rates, draws=2), (purifier,), images, xi, eps, size=2)
attack = partial(pm.pgd, steps=5)
attacked = pm.attack_images(attack, classifier, purifier, images, labels, xi, eps=0.2, size=2)
with pm.calls_of(2):
    least = pm.minimum_perturbations(attack, classifier, images, labels, eps_max=0.5, halvings=4)
leaves = jax.tree.leaves((rates, attacked, least))
np.savez(sys.argv[1], devices=len(jax.local_devices()), **{f"{i:02d}": leaf for i, leaf in enumerate(leaves)})
"""


def measured(path, devices: int) -> dict[str, np.ndarray]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    subprocess.run([sys.executable, "-c", MEASURE, path], check=True, env={**os.environ, "XLA_FLAGS": flags})
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def test_rates_attacks_and_minimum_perturbations_do_not_depend_on_the_number_of_devices(tmp_path):
    """Bit for bit, as each device runs the program of one; 13 images are no multiple of the 8 of four devices."""
    one, four = (measured(tmp_path / f"{devices}.npz", devices) for devices in (1, 4))
    assert (one.pop("devices"), four.pop("devices")) == (1, 4)
    assert one.keys() == four.keys() and len(one) == 12
    for name in one:
        np.testing.assert_array_equal(one[name], four[name])
    assert (one["06"] >= 0).any() and len(np.unique(one["09"])) > 3  # images are broken, at distances of their own


def test_a_call_takes_what_the_devices_memory_allows(monkeypatch):
    cifar, imagenet = np.zeros((2, 32, 32, 3)), np.zeros((2, 256, 256, 3))
    sizes = {}
    for gigabytes in (4, 16, 80):
        monkeypatch.setattr(batches, "_memory", lambda: gigabytes * 10**9)
        sizes[gigabytes] = shard_size(cifar), shard_size(imagenet)
    assert sizes == {4: (8, 1), 16: (32, 1), 80: (64, 4)}


@pytest.mark.parametrize("told, size, rows", [
    (None, None, 64), (None, 2, 2), (3, None, 3), (3, 16, 3), (128, None, 128), (128, 2, 2),
])
def test_a_call_has_the_rows_that_it_is_told_or_fewer_where_a_measurement_asks_for_fewer(monkeypatch, told, size, rows):
    over_shard, seen = batches._over_shard, set()
    monkeypatch.setattr(batches, "_over_shard", lambda *given: seen.add(len(given[2][0])) or over_shard(*given))
    with calls_of(told):
        np.testing.assert_array_equal(over_images(lambda x: 2 * x, (), jnp.arange(8.0), size=size), 2 * np.arange(8.0))
    assert seen == {rows}


def test_a_call_of_no_image_is_an_error():
    with pytest.raises(ValueError, match="at least 1 image, got 0"), calls_of(0):
        pass


def full_above(images: int, over_shard):
    """A device that holds no more than some images."""

    def limited(function, shared, rows, mesh):
        if len(jax.tree.leaves(rows)[0]) > images:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5368709120 bytes.")
        return over_shard(function, shared, rows, mesh)

    return limited


@pytest.mark.parametrize("holds, fits, remedy", [
    (5, 4, "4 fit: run again with --batch 4"), (1, 1, "1 fits: run again with --batch 1"), (0, 0, "not even one does"),
])
def test_out_of_memory_says_which_batch_size_fits(monkeypatch, holds, fits, remedy):
    monkeypatch.setattr(batches, "_over_shard", full_above(holds, batches._over_shard))
    with pytest.raises(OutOfMemory, match=f"rates: 16 images in one compiled call do not fit .*; {remedy}") as caught:
        over_images(lambda x: 2 * x, (), jnp.arange(40.0), size=16, name="rates")
    assert caught.value.fits == fits
    copy = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker process
    assert (str(copy), copy.fits) == (str(caught.value), fits)
    if fits:
        with calls_of(fits):
            found = over_images(lambda x: 2 * x, (), jnp.arange(40.0), size=16)
        np.testing.assert_array_equal(found, 2 * np.arange(40))


def test_a_real_allocation_that_no_machine_holds_is_out_of_memory():
    """Half an exabyte an image."""
    huge = partial(_spread, 2**57)
    with pytest.raises(OutOfMemory, match="not even one does"):
        over_images(huge, (), jnp.ones(2), size=2)


def test_other_errors_of_a_device_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(batches, "_over_shard", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        over_images(lambda x: x, (), jnp.ones(2))


def _spread(length, x):
    return jax.lax.sort(jnp.sin(x * jnp.arange(length, dtype=jnp.float32)))[0]

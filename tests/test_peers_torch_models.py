"""Models that stay in PyTorch, against the same weights in JAX: through every measurement that takes them."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import purimetry as pm

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
twins = pytest.importorskip("purimetry.experiments.torch_twins")

N = 6
IMAGES = np.random.default_rng(0).uniform(0, 1, (N, 8, 8, 1)).astype(np.float32)
XI = pm.configurations(0, np.arange(N))
FLOAT = dict(rtol=1e-4, atol=1e-5)  # float32 sums of some hundred products, through several layers


def stirred(network, seed):
    """Every weight moved, so that no output is near zero."""
    return jax.tree.map(lambda a: a + 0.2 * jax.random.normal(jax.random.key(seed), a.shape), network)


def twin(build, network):
    return build(nnx.merge(network.graph, network.state)).eval()


@pytest.fixture(scope="module")
def classifiers():
    ours = jax.jit(lambda: stirred(pm.pure(pm.ConvNet((8, 8, 1), 10, (4,), rngs=nnx.Rngs(0))), 1))()
    return ours, pm.torch_classifier(twin(twins.ConvNet, ours))


@pytest.fixture(scope="module")
def labels(classifiers):
    return np.asarray(jax.jit(jax.vmap(classifiers[0]))(IMAGES)).argmax(1)


@pytest.fixture(scope="module")
def purifiers():
    """Of one function in both, quicker to compile than a network."""
    theirs = pm.torch_denoiser(lambda x_t, t: torch.tanh(x_t + t[:, None, None, None] / 100))
    return [pm.diffusion(denoiser, pm.ddpm(pm.respaced(pm.linear(), 100), 2))
            for denoiser in (lambda x_t, t: jnp.tanh(x_t + t / 100), theirs)]


def noised(x):
    """0.8 x plus noise: everything about it is known."""
    return 0.8 * x + 0.1 + 0.05 * torch.rand_like(x)


def test_a_classifier_and_its_gradient_equal_ours(classifiers):
    ours, theirs = (
        jax.jit(lambda x, c=c: (jax.vmap(c)(x), jax.vmap(jax.grad(lambda x: c(x)[3]))(x)))(IMAGES) for c in classifiers
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(other, one, **FLOAT)


def test_a_batch_of_batches_is_one(classifiers):
    """As an expectation over randomness asks for it."""
    _, classifier = classifiers
    grid = IMAGES.reshape(2, 3, 8, 8, 1)
    slope = jax.vmap(jax.grad(lambda x: classifier(x)[0]))
    of_grid, of_images = jax.jit(lambda grid, images: (jax.vmap(slope)(grid), slope(images)))(grid, IMAGES)
    np.testing.assert_allclose(of_grid, np.asarray(of_images).reshape(grid.shape), **FLOAT)


def test_rates_attacks_and_minimum_perturbations_equal_ours(classifiers, labels, purifiers):
    """Purified by our sampler with their denoiser. Signs of gradients near zero may differ: margins to a hundredth."""

    def measured(classifier, purifier):
        rates = pm.over_images(partial(pm.expected_rates, draws=2), (purifier,), IMAGES, XI, np.full(N, 0.1))
        attacked = pm.attack_images(partial(pm.pgd, steps=5), classifier, purifier, IMAGES, labels, XI, eps=0.03)
        least = pm.minimum_perturbations(partial(pm.pgd, steps=5), classifier, IMAGES, labels, halvings=4)
        return rates.l2.mean, attacked.margin, least.distance

    with pm.calls_of(N):
        (rates, margins, least), theirs = (measured(*pair) for pair in zip(classifiers, purifiers, strict=True))
    np.testing.assert_allclose(theirs[0], rates, rtol=1e-3)  # a difference of two outputs, 0.1 apart
    np.testing.assert_allclose(theirs[1], margins, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(theirs[2], least, rtol=0, atol=1 / 2**4)  # one halving
    assert len(np.unique(least)) > 2


def test_a_purifiers_randomness_is_its_keys():
    purifier = pm.torch_purifier(noised)
    pm.check_purifier(purifier, IMAGES, XI)
    whole = pm.purify(purifier, IMAGES, XI)
    np.testing.assert_array_equal(pm.purify(purifier, IMAGES[4:], XI[4:]), whole[4:])
    other = pm.purify(purifier, IMAGES, pm.configurations(1, np.arange(N)))
    assert (other != whole).mean() > 0.99
    assert abs(np.mean(whole - 0.8 * IMAGES - 0.1) - 0.025) < 4 * 0.05 / np.sqrt(12 * whole.size)


def test_threads_do_not_share_a_purifiers_randomness():
    """As the devices of one process have a thread each, and PyTorch one generator for all of them."""

    def drawn_at_length(x):
        return sum(noised(x) for _ in range(50)) / 50

    purifier = jax.jit(pm.torch_purifier(drawn_at_length))
    alone = [np.asarray(purifier(IMAGES[0], key)) for key in XI]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            together = threads.map(lambda key: np.asarray(purifier(IMAGES[0], key)), list(XI))
            np.testing.assert_array_equal(list(together), alone)


def test_a_purifier_is_called_once_an_image():
    """However many rows a shard is filled up with; and the gradient of each image is its own."""
    called = []

    def counted(x):
        called.append((len(x), bool(x.any())))
        return noised(x)

    purifier = pm.torch_purifier(counted)
    pm.purify(purifier, IMAGES, XI)
    assert called.count((1, True)) == N and set(called) <= {(1, True), (1, False)}  # zeros are asked for the shape
    of_first = lambda x, key: purifier(x, key)[0, 0, 0]
    slopes = pm.over_images(lambda f, x, key: jax.grad(f)(x, key), (of_first,), IMAGES, XI)
    np.testing.assert_allclose(slopes[:, 0, 0, 0], 0.8, rtol=1e-6)
    np.testing.assert_array_equal(slopes.reshape(N, -1)[:, 1:], 0)


def test_rows_that_are_alike_get_the_same_gradient():
    """And not one of them that of all."""
    purifier, alike = pm.torch_purifier(noised), np.repeat(IMAGES[:1], 3, axis=0)
    slope = jax.jit(jax.vmap(jax.grad(lambda x: purifier(x, XI[0]).sum())))(alike)
    np.testing.assert_allclose(slope, 0.8, rtol=1e-6)


def test_a_forward_pass_keeps_nothing_for_gradients_and_a_purifier_may_take_its_own():
    kept = []
    weight = torch.ones(1, requires_grad=True)

    def model(x):
        logits = weight * x.flatten(1)
        kept.append(logits.requires_grad)
        return logits

    pm.check_classifier(pm.torch_classifier(model), 0.9 * IMAGES)
    assert kept and not any(kept)

    def guided(x):
        x = x.detach().requires_grad_()
        return (x - 0.1 * torch.autograd.grad((x**2).sum() / 2, x)[0]).detach()

    np.testing.assert_allclose(pm.purify(pm.torch_purifier(guided), IMAGES, XI), 0.9 * IMAGES, rtol=1e-6)


def test_pytorchs_own_generator_is_left_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    pm.purify(pm.torch_purifier(noised), IMAGES, XI)
    assert torch.equal(torch.rand(4), expected)


def test_a_purifiers_gradient_is_its_jacobians():
    purifier = pm.torch_purifier(noised)
    (slope,) = jax.vjp(lambda x: purifier(x, XI[0]), jnp.asarray(IMAGES[0]))[1](jnp.ones((8, 8, 1)))
    np.testing.assert_allclose(slope, 0.8, rtol=1e-6)


ONE_THREAD = """
import faulthandler, numpy as np, torch, purimetry as pm
from flax import nnx
faulthandler.dump_traceback_later(100, exit=True)
purifier = pm.torch_purifier(lambda x: 0.8 * x + 0.05 * torch.rand_like(x))
classifier = pm.pure(pm.ConvNet((8, 8, 1), 10, (16, 32), rngs=nnx.Rngs(0)))
defended = lambda classifier, purifier, x, key: classifier(purifier(x, key))
images, xi = np.ones((32, 8, 8, 1), np.float32), pm.configurations(0, range(32))
print(pm.over_images(defended, (classifier, purifier), images, xi).shape)
"""


def test_one_thread_is_enough():
    """Runs have one, which would wait for itself if PyTorch's side computed anything in JAX."""
    environment = {**os.environ, **dict.fromkeys(("NPROC", "OMP_NUM_THREADS"), "1")}
    done = subprocess.run([sys.executable, "-c", ONE_THREAD], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "(32, 10)", done.stderr


def test_jacobians_go_forward_and_backward(classifiers):
    """A push is a pull of PyTorch's pull; mapped, transposed and in a loop, against the same in JAX."""
    ours, theirs = (lambda x, key, c=c: jnp.tanh(c(x).sum() * x) for c in classifiers)
    x, key = jnp.asarray(IMAGES[0]), XI[0]
    expected, found = (jax.jit(partial(pm.jacobian, f))(x, key) for f in (ours, theirs))
    np.testing.assert_allclose(found, expected, **FLOAT)
    pulled = jax.jit(jax.jacrev(lambda x: theirs(x, key).ravel()))(x)
    np.testing.assert_allclose(pulled.reshape(64, 64), expected, **FLOAT)
    singular = lambda f: jax.jit(partial(pm.largest_singular_values, f, k=2, iterations=8))(x, key).values
    found = [singular(f) for f in (ours, theirs)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)  # eight products, one after another
    looped = lambda x: jax.lax.fori_loop(0, 2, lambda _, x: theirs(x, key), x)
    twice = jax.jit(lambda x: jax.jvp(lambda x: ours(ours(x, key), key), (x,), (x,))[1])(x)
    np.testing.assert_allclose(jax.jit(lambda x: jax.jvp(looped, (x,), (x,))[1])(x), twice, **FLOAT)


def test_jacobians_of_a_batch_with_attention():
    """Whose fast ways in PyTorch have no second pull."""
    attention = torch.nn.MultiheadAttention(4, 2, batch_first=True).eval()

    def attend(x):
        tokens = x.flatten(1).reshape(len(x), 16, 4)
        return torch.nn.functional.scaled_dot_product_attention(*3 * [attention(tokens, tokens, tokens)[0]]).reshape(
            x.shape)

    purifier = pm.torch_purifier(attend)
    x, keys, v = IMAGES[:2], XI[:2], IMAGES[2:4]
    forward = jax.jit(jax.vmap(partial(pm.push, purifier)))(x, keys, v)
    rows = jax.jit(jax.vmap(jax.jacrev(lambda x, key: purifier(x, key))))(x, keys)
    np.testing.assert_allclose(forward, np.einsum("nabcijk,nijk->nabc", rows, v), **FLOAT)


@pytest.mark.parametrize("last, ours", [
    (torch.sigmoid, jax.nn.sigmoid), (torch.relu, jax.nn.relu), (torch.exp, jnp.exp), (torch.sqrt, jnp.sqrt),
    (torch.round, jnp.round), (lambda x: torch.softmax(x, 1), jax.nn.softmax),
], ids=["sigmoid", "relu", "exp", "sqrt", "round", "softmax"])
def test_whatever_comes_last_is_pushed_and_pulled(last, ours):
    """Layers whose gradient needs their output, or is nothing."""
    theirs = pm.torch_classifier(lambda x: last(2 * x.flatten(1)))
    jacobians = jax.jacfwd(theirs), jax.jacrev(theirs), jax.jacfwd(lambda x: ours(2 * x.ravel()))
    pushed, pulled, expected = jax.jit(lambda x: [jacobian(x) for jacobian in jacobians])(IMAGES[0])
    for found in (pushed, pulled):
        np.testing.assert_allclose(found, expected, **FLOAT)


@pytest.mark.parametrize("derivative", [jax.jacrev, jax.jacfwd])
def test_a_gradient_that_stops_on_its_way_is_said_and_is_no_zero(derivative):
    """Though the weights behind have one."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
    stopped = pm.torch_classifier(lambda x: net(x.detach()))
    with pytest.raises(ValueError, match="has no gradient in the image, for it runs under torch.no_grad, detaches or"):
        derivative(stopped)(jnp.asarray(IMAGES[0]))


def test_what_a_gradient_computes_again_has_the_same_randomness_in_every_thread():
    from torch.utils.checkpoint import checkpoint

    def again(x):
        return checkpoint(lambda x: (x * torch.rand_like(x)).cumsum(2), x, use_reentrant=False)

    slope = jax.jit(jax.grad(lambda x, key: pm.torch_purifier(again)(x, key).sum()))
    alone = [np.asarray(slope(IMAGES[0], key)) for key in XI]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            together = threads.map(lambda key: np.asarray(slope(IMAGES[0], key)), list(XI))
            np.testing.assert_array_equal(list(together), alone)


def test_pytorchs_ways_of_attention_are_left_as_they_were():
    purifier = pm.torch_purifier(lambda x: 0.8 * x)
    ways = lambda: (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled())
    before = ways()
    push = jax.jit(lambda x, key: pm.push(purifier, x, key, x))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda key: np.asarray(push(IMAGES[0], key)), 20 * list(XI)))
    assert ways() == before == (True, True)


def test_numbers_of_python_half_precision_and_scalars_are_taken():
    x = jnp.asarray(IMAGES[0])
    denoiser = pm.torch_denoiser(lambda x_t, t: x_t * t[:, None, None, None])
    np.testing.assert_allclose(denoiser(x, 2.0), 2 * x)
    slope = jax.grad(lambda x: pm.torch_classifier(lambda x: 3 * x.sum((1, 2, 3)))(x))
    np.testing.assert_array_equal(slope(x), 3)
    assert slope(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_second_derivatives_are_refused(classifiers):
    slope = jax.grad(lambda x: classifiers[1](x)[0])
    with pytest.raises(TypeError, match="models in PyTorch have first derivatives here, no second ones"):
        jax.jvp(slope, (jnp.asarray(IMAGES[0]),), (jnp.ones((8, 8, 1)),))


def test_a_hidden_gradient_is_said_and_straight_through_attacks_it(classifiers, labels):
    hidden = pm.torch_purifier(torch.no_grad()(noised))
    attack = partial(pm.attack_images, partial(pm.pgd, steps=2), classifiers[1])
    with pytest.raises(ValueError, match=r"has no gradient in the image, for it runs under torch.no_grad"):
        attack(hidden, IMAGES, labels, XI, 0.1)
    assert np.isfinite(attack(pm.straight_through(hidden), IMAGES, labels, XI, 0.1).margin).all()


def test_noise_that_xi_does_not_hold_is_found():
    generator = np.random.default_rng(0)
    purifier = pm.torch_purifier(lambda x: (0.8 * x + 0.1 * torch.tensor(generator.random(x.shape, np.float32))))
    with pytest.raises(ValueError, match="random although its key is fixed"):
        pm.check_purifier(purifier, IMAGES, XI)


def test_probabilities_and_training_mode_are_refused(classifiers):
    with pytest.raises(ValueError, match="returns probabilities"):
        pm.check_classifier(pm.torch_classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Softmax(1)).eval()),
                            IMAGES)
    with pytest.raises(ValueError, match=r"training mode.*call \.eval\(\)"):
        pm.torch_classifier(torch.nn.BatchNorm2d(1))


def test_a_purifier_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"must keep the image's shape \(8, 8, 1\), got \(4, 4, 1\)"):
        pm.check_purifier(pm.torch_purifier(lambda x: x[:, :, ::2, ::2]), IMAGES, XI)


def test_a_module_that_is_not_wrapped_is_refused():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    with pytest.raises(TypeError, match=r"got a PyTorch module; give pm.torch_classifier\(module\)"):
        pm.check_classifier(module, IMAGES)
    with pytest.raises(TypeError, match=r"got a PyTorch module; give pm.torch_purifier\(module\)"):
        pm.purify(module, IMAGES, XI)


def test_what_is_no_tensor_is_refused():
    class Output:
        sample = torch.zeros(1)

    with pytest.raises(TypeError, match=r"must return a tensor, got Output; of diffusers' models give `lambda x, t"):
        pm.torch_denoiser(lambda x, t: Output())(jnp.ones((2, 2, 1)), jnp.float32(1))


def test_what_a_wrapped_function_raises_is_not_told_to_wrap_it():
    classifier = pm.torch_classifier(torch.nn.Linear(5, 2).eval())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised:
        pm.check_classifier(classifier, IMAGES)
    assert not any("goes through" in said for said in getattr(raised.value, "__notes__", ()))

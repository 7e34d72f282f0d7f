"""Decompositions are JAX's own, and no program hands LAPACK a batch, for which threads may wait for ever."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purimetry as pm
from purimetry.compression import decompositions as d
from purimetry.compression.jacobian import largest_eigenvectors
from purimetry.compression.manifold import principal_cosines

MATRICES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4)), jnp.float32)
SYMMETRIC = MATRICES + MATRICES.transpose(0, 2, 1)
IMAGES, KEY = MATRICES[..., None], jax.random.key(0)


def batches(function, *arguments) -> set[str]:
    """The decompositions that a program hands LAPACK for more than one matrix, as XLA is told of them."""
    program = jax.jit(function).lower(*arguments).as_text()
    calls = re.findall(r"custom_call @lapack_(\w+)\(.*?-> \(?tensor<([\dx]+)xf32>", program)
    return {name for name, shape in calls if math.prod(map(int, shape.split("x")[:-2])) > 1}


@pytest.mark.parametrize("ours, theirs, matrices", [
    (d.singular_values, lambda a: jnp.linalg.svd(a, compute_uv=False), MATRICES),
    (d.svd, lambda a: jnp.linalg.svd(a, full_matrices=False), MATRICES[:, :2]),
    (d.eigenvalues, jnp.linalg.eigvalsh, SYMMETRIC), (d.eigh, jnp.linalg.eigh, SYMMETRIC),
    (d.orthonormal, lambda a: jnp.linalg.qr(a)[0], MATRICES[..., :2]),
])
def test_matrices_one_after_another_are_decomposed_as_together(ours, theirs, matrices):
    jax.tree.map(np.testing.assert_array_equal, tuple(jax.vmap(ours)(matrices)), tuple(jax.vmap(theirs)(matrices)))


@pytest.mark.parametrize("measure", [
    lambda x: d.singular_values(x[..., 0]), lambda x: d.svd(x[..., 0]), lambda x: d.eigenvalues(x[..., 0]),
    lambda x: d.eigh(x[..., 0]), lambda x: d.orthonormal(x[..., 0]),
    lambda x: pm.largest_singular_values(lambda x, key: jnp.tanh(x), x, KEY, k=2, iterations=4),
    lambda x: largest_eigenvectors(lambda v: 2 * v, x, KEY, k=2, iterations=4),
    lambda x: pm.symmetric_spectrum(x[..., 0]), lambda x: principal_cosines(x[..., 0], x[..., 0]),
])
def test_no_program_hands_lapack_a_batch(measure):
    assert batches(jax.vmap(measure), IMAGES) == set()


def test_a_batch_is_seen():
    assert batches(jax.vmap(lambda x: jnp.linalg.svd(x[..., 0])), IMAGES) == {"sgesdd_ffi"}


def test_what_decomposes_asks_here():
    root = Path(pm.__file__).parent
    calls = re.compile(r"jnp\.linalg\.(?!norm)|lax\.linalg|\beig\.(svd|eigh|eig)_partial")
    elsewhere = [str(path.relative_to(root)) for folder in ("compression", "theory", "experiments")
                 for path in (root / folder).rglob("*.py") if calls.search(path.read_text())]
    assert elsewhere == ["compression/decompositions.py"]

"""Decompositions of small matrices, under `vmap` one matrix after another.

A batch that jaxlib (0.10.2) hands to LAPACK is spread over XLA's threads by one of these threads, which waits for the
others. As many such batches at a time as there are threads wait for each other for ever: on two threads a program of
two decompositions after convolutions stood still once in 6,000 calls. A single matrix is decomposed where it is met.
"""

from functools import partial

import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

singular_values = sequential_vmap(partial(jnp.linalg.svd, compute_uv=False))
"""Of a matrix, descending."""

svd = sequential_vmap(partial(jnp.linalg.svd, full_matrices=False))
"""U, singular values, V^T of the thin singular value decomposition of a matrix."""

eigenvalues = sequential_vmap(lambda symmetric: jnp.linalg.eigvalsh(symmetric))
"""Of a symmetric matrix, ascending."""

eigh = sequential_vmap(lambda symmetric: jnp.linalg.eigh(symmetric))
"""Eigenvalues, ascending, and eigenvectors, in columns, of a symmetric matrix."""

orthonormal = sequential_vmap(lambda columns: jnp.linalg.qr(columns)[0])
"""Orthonormal columns that span what the columns of a matrix do."""

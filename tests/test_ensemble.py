"""The ensemble and the transfer attack: who breaks what, at what cost, and that it is checked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import purimetry as pm
from purimetry.compression.attacks.ensemble import Member
from purimetry.compression.attacks.search import attack_images

N, SHAPE, EPS = 20, (3, 3, 1), 0.06
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0.2, 0.8, (N, *SHAPE)).astype(np.float32)
KEYS, FRESH = (pm.configurations(seed, np.arange(N)) for seed in (0, 1))
WEIGHTS = jax.device_put(RANDOM.normal(size=(9, 5)))


@Partial
def curved(x):
    straight = (x.reshape(-1) - 0.5) @ WEIGHTS
    return straight + 0.3 * jnp.sin(9 * straight)


PREDICTED = np.argmax(jax.jit(jax.vmap(curved))(IMAGES), 1)
LABELS = np.where(np.arange(N) % 10 == 0, (PREDICTED + 1) % 5, PREDICTED)  # images 0 and 10 are wrong when clean
SHORT = partial(pm.standard_attacks, steps=8, queries=30)


def noisy(x, key):
    return jnp.clip(x + 0.1 * jax.random.normal(key, x.shape), 0, 1)


def margins(purifier, images, keys):
    one = lambda x, key, label: pm.margin(curved(purifier(x, key)), label)
    return np.array(jax.jit(jax.vmap(one))(images, keys, LABELS))


def test_the_standard_ensemble_breaks_what_any_of_its_attacks_breaks():
    found = pm.ensemble(curved, pm.identity, IMAGES, LABELS, KEYS, EPS, version=SHORT)
    assert found.names == ("clean", "apgd_ce", "apgd_t", "fab_t", "square")
    alone = [attack_images(member.attack, curved, pm.identity, IMAGES, LABELS, KEYS, EPS, member.criterion)
             for member in SHORT(5, pm.linf)]
    broken = np.array([LABELS != PREDICTED, *(result.broken_at >= 0 for result in alone)])
    first = np.where(broken.any(0), broken.argmax(0), -1)
    np.testing.assert_array_equal(found.by, first)
    assert 0 < (first < 0).sum() and 0 < (first > 0).sum()
    for number, result in enumerate(alone, 1):
        reached = (first < 0) | (first >= number)
        np.testing.assert_array_equal(found.gradients[:, number - 1], np.where(reached, result.gradients, 0))
        spent = np.where(reached, result.evaluations + 1, 0)  # and the check
        np.testing.assert_array_equal(found.evaluations[:, number - 1], spent)
        taken = first == number
        np.testing.assert_array_equal(found.x[taken], result.x[taken])
    np.testing.assert_allclose(found.margin, margins(pm.identity, found.x, KEYS), atol=1e-5)
    np.testing.assert_array_equal(found.by >= 0, found.margin >= 0)
    assert np.abs(found.x - IMAGES).max() < EPS * (1 + 1e-5)
    np.testing.assert_allclose(found.robust[[0, -1]], [0.9, (first < 0).mean()])
    assert (np.diff(found.robust) <= 0).all()


def test_rand_is_tested_at_a_configuration_that_it_has_not_seen():
    version = partial(pm.rand_attacks, steps=4, draws=3)
    found = pm.ensemble(curved, noisy, IMAGES, LABELS, KEYS, 0.1, version=version)
    assert found.names == ("clean", "apgd_ce", "apgd_dlr")
    np.testing.assert_allclose(found.margin, margins(noisy, found.x, KEYS), atol=1e-5)
    np.testing.assert_array_equal(found.by >= 0, found.margin >= 0)
    clean = margins(noisy, IMAGES, KEYS) >= 0
    np.testing.assert_array_equal(found.by == 0, clean)
    # Of 3 draws each: the clean image, 4 gradients, the end and the check; then the test itself.
    np.testing.assert_array_equal(found.evaluations[:, 0], np.where(clean, 0, 3 * (1 + 4 + 1 + 1) + 1))
    np.testing.assert_array_equal(found.gradients[:, 0], np.where(clean, 0, 12))


@pytest.mark.parametrize("norm", [pm.linf, pm.l2])
def test_targets_are_as_many_as_there_are_rivals_and_at_most_nine(norm):
    for classes, expected in ((4, 3), (10, 9), (100, 9)):
        attacks = [member.attack(0.1) for member in pm.standard_attacks(classes, norm)]
        assert [attack.restarts for attack in attacks] == [1, expected, expected, 1]
        assert [attack.steps for attack in attacks] == [100, 100, 100, 5000]
        assert {attack.norm for attack in attacks} == {norm}


def test_progress_names_the_attack():
    told = []
    version = lambda classes, norm: SHORT(classes, norm)[:2]
    pm.ensemble(curved, pm.identity, IMAGES, LABELS, KEYS, EPS, version=version, on_segment=lambda *a: told.append(a))
    names = [name for name, _, _ in told]
    assert sorted(set(names), key=names.index) == ["apgd_ce", "apgd_t"]
    assert all(0 < done <= 1 and active >= 0 for _, done, active in told)


def test_an_ensemble_takes_one_budget_an_image():
    eps = np.where(np.arange(N) < 10, 1e-4, 0.5)
    found = pm.ensemble(curved, pm.identity, IMAGES, LABELS, KEYS, eps, version=SHORT)
    assert (found.by[:10][LABELS[:10] == PREDICTED[:10]] < 0).all() and (found.by[10:] >= 0).all()


def test_a_member_that_claims_too_much_is_not_believed():
    """Judged by a view that has every input misclassified, it breaks nothing that the defence gets right."""
    def lying(classifier, purifier, label, criterion=pm.margin):
        loss = pm.defended(classifier, purifier, label, criterion)
        return lambda x, key: (lambda seen: seen._replace(margins=seen.margins + 9))(loss(x, key))

    version = lambda classes, norm: (Member("liar", pm.fgsm, view=lying),)
    found = pm.ensemble(curved, pm.identity, IMAGES, LABELS, KEYS, 1e-6, version=version)
    np.testing.assert_array_equal(found.by, np.where(LABELS == PREDICTED, -1, 0))


def test_transfer_judges_the_surrogates_strongest_input_on_the_target():
    surrogate = (lambda x: 2 * curved(x) - curved(x) ** 2 / 9, noisy)
    target, attack = (curved, noisy), partial(pm.pgd, steps=6, step_size=0.3)
    found = pm.transfer(attack, surrogate, target, IMAGES, LABELS, KEYS, EPS, surrogate_keys=FRESH)
    before = margins(noisy, IMAGES, KEYS)
    sought = before < 0
    there = attack_images(attack, *surrogate, IMAGES[sought], LABELS[sought], FRESH[sought], EPS, confidence=np.inf)
    np.testing.assert_array_equal(found.x[sought], there.x)
    np.testing.assert_array_equal(found.x[~sought], IMAGES[~sought])
    np.testing.assert_allclose(found.margin, margins(noisy, found.x, KEYS), atol=1e-5)
    np.testing.assert_array_equal(found.broken_at, np.where(before >= 0, 0, np.where(found.margin >= 0, 1, -1)))
    np.testing.assert_array_equal(found.gradients, np.where(sought, 6, 0))
    assert 0 < sought.sum() < N


def test_transfer_to_itself_is_the_attack():
    attack = partial(pm.pgd, steps=6, step_size=0.3)
    found = pm.transfer(attack, (curved, noisy), (curved, noisy), IMAGES, LABELS, KEYS, EPS)
    direct = attack_images(attack, curved, noisy, IMAGES, LABELS, KEYS, EPS)
    np.testing.assert_array_equal(found.broken_at >= 0, direct.broken_at >= 0)


def test_transfer_where_everything_is_wrong_already():
    wrong = (PREDICTED + 1) % 5
    found = pm.transfer(pm.fgsm, (curved, pm.identity), (curved, pm.identity), IMAGES, wrong, KEYS, EPS)
    assert (found.broken_at == 0).all() and (found.gradients == 0).all()

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import Dataset, Transform, transform

KINDS = ("normalize", "zca")
EPSILON = 0.1


@pytest.fixture(scope="module")
def digits():
    return Dataset(name="digits").load().train.images


@pytest.fixture
def coloured(pictures):
    """Random pictures (N, 3, 8, 8) with a structure, so that the covariance is no multiple of one."""
    images, _ = pictures(400)
    return np.ascontiguousarray((images // 2 + images[:, ::-1] // 3).transpose(0, 3, 1, 2))


def covariance(rows):
    centred = rows - rows.mean(0)
    return centred.T @ centred / (len(rows) - 1)


def test_normalize_gives_each_channel_mean_zero_and_deviation_one(coloured):
    made = Transform.fit(coloured, "normalize")
    result = made.apply(coloured).double()
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        result.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0
    )
    np.testing.assert_allclose(made.tensors()["mean"], coloured.mean((0, 2, 3)) / 255, rtol=1e-6)


def test_normalize_stands_a_channel_that_never_changes(coloured):
    coloured[:, 1] = 7
    made = Transform.fit(coloured, "normalize")
    assert torch.isfinite(made.apply(coloured)).all()
    np.testing.assert_array_equal(made.invert(made.apply(coloured)), coloured)


def test_zca_covariance_is_that_of_the_formula(coloured):
    pixels = coloured.reshape(len(coloured), -1) / 255
    values, vectors = np.linalg.eigh(covariance(pixels))
    expected = vectors @ np.diag(values / (values + EPSILON)) @ vectors.T
    result = Transform.fit(coloured, "zca").apply(coloured).flatten(1).double().numpy()
    np.testing.assert_allclose(covariance(result), expected, atol=1e-6)
    np.testing.assert_allclose(result.mean(0), 0, atol=1e-6)


def test_zca_matrices_are_symmetric_and_inverse(digits):
    made = Transform.fit(digits, "zca")
    torch.testing.assert_close(made.whitening, made.whitening.T)
    torch.testing.assert_close(made.whitening @ made.colouring, torch.eye(64), atol=1e-5, rtol=0)


def test_zca_in_blocks_of_float32_is_near_that_in_float64(coloured, monkeypatch):
    exact = Transform.fit(coloured, "zca").apply(coloured)
    monkeypatch.setattr(transform, "FLOAT64_PIXELS", 0)
    monkeypatch.setattr(transform, "BLOCK_IMAGES", 33)
    torch.testing.assert_close(Transform.fit(coloured, "zca").apply(coloured), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_invert_gives_back_every_pixel(kind, digits, coloured):
    for images in (digits, coloured):
        made = Transform.fit(images, kind)
        result = made.invert(made.apply(images))
        assert result.dtype == torch.uint8
        np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("kind", KINDS)
def test_invert_clips(kind, digits):
    made = Transform.fit(digits, kind)
    assert made.invert(torch.full((1, 1, 8, 8), 1e6)).max() == 255
    assert made.invert(torch.full((1, 1, 8, 8), -1e6)).min() == 0


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
    st.integers(2, 40),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
)
@settings(max_examples=30, deadline=None)
def test_round_trip_holds_for_any_images(seed, kind, number, side, channels):
    images = np.random.default_rng(seed).integers(0, 256, (number, channels, side, side + 1), dtype=np.uint8)
    made = Transform.fit(images, kind)
    np.testing.assert_array_equal(made.invert(made.apply(images)), images)


@pytest.mark.parametrize("kind", KINDS)
def test_survives_storage_bit_by_bit(kind, digits):
    made = Transform.fit(digits, kind)
    loaded = Transform.from_tensors(safetensors.torch.load(safetensors.torch.save(made.tensors())))
    assert loaded.kind == made.kind == kind
    assert torch.equal(loaded.apply(digits), made.apply(torch.from_numpy(digits)))
    assert torch.equal(loaded.invert(loaded.apply(digits)), made.invert(made.apply(digits)))


@pytest.mark.parametrize("kind", KINDS)
def test_fit_is_deterministic_and_float32(kind, digits):
    first, second = Transform.fit(digits, kind).tensors(), Transform.fit(digits, kind).tensors()
    assert all(
        torch.equal(first[name], second[name]) and first[name].dtype == torch.float32 for name in first
    )


@pytest.mark.parametrize("names", [[], ["mean"], ["mean", "std", "more"]])
def test_refuses_other_tensors(names, refuses):
    with refuses("transform", "normalize (mean, std)", "zca (mean, eigenvalues, eigenvectors)"):
        Transform.from_tensors({name: torch.zeros(1) for name in names})

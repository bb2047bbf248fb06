import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import GROUPS, augment, check_strategy, draw

ALL = "color_crop_cutout_flip_scale_rotate"
SHAPE = (6, 3, 8, 8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape or SHAPE, generator=seeded(seed)).to(dtype)


def drawn(group, number, height, width, seed=0):
    return GROUPS[group].draw(number, height, width, seeded(seed))


def test_all_groups_of_the_literature_are_there():
    assert check_strategy(ALL) == tuple(GROUPS)
    assert check_strategy("") == ()


def test_no_strategy_changes_nothing_and_draws_nothing():
    images, generator = batch(), seeded()
    assert augment(images, "", generator) is images
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("colour_flip", ("found the group 'colour'", "did you mean 'color'?")),
        ("flip_", ("found the group ''", "color, crop, cutout, flip, scale, rotate")),
        ("xyz", ("found the group 'xyz'", "join known ones")),
        ("flip_flip", ("names a group twice", "remove one")),
    ],
)
def test_refuses_unknown_and_repeated_groups(strategy, words, refuses):
    with refuses(repr(strategy), *words):
        check_strategy(strategy)
    with refuses(repr(strategy), *words):
        augment(batch(), strategy, seeded())


@pytest.mark.parametrize("group", GROUPS)
def test_is_determined_by_the_generator(group):
    images = batch()
    first = augment(images, group, seeded(3))
    assert torch.equal(first, augment(images, group, seeded(3)))
    assert not torch.equal(first, augment(images, group, seeded(4)))
    assert first.shape == images.shape
    assert first.dtype == images.dtype


@pytest.mark.parametrize("group", GROUPS)
def test_draws_the_same_in_every_precision(group):
    images = batch()
    double = augment(images.double(), group, seeded())
    assert double.dtype == torch.float64
    torch.testing.assert_close(augment(images, group, seeded()).double(), double, atol=1e-5, rtol=0)


@pytest.mark.parametrize("group", GROUPS)
def test_every_image_has_its_own_parameters_unless_siamese(group):
    images = batch(1, 3, 8, 8).expand(16, -1, -1, -1)
    apart = augment(images, group, seeded())
    assert len(torch.unique(apart.flatten(1), dim=0)) > 1
    together = augment(images, group, seeded(), siamese=True)
    torch.testing.assert_close(together, together[:1].expand_as(together))


@pytest.mark.parametrize("group", GROUPS)
def test_siamese_batches_of_different_sizes_undergo_the_same(group):
    images = batch()
    whole = augment(images, group, seeded(5), siamese=True)
    torch.testing.assert_close(augment(images[:2], group, seeded(5), siamese=True), whole[:2])


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("siamese", [False, True])
def test_gradients_of_first_and_second_order(group, siamese):
    images = batch(2, 3, 4, 5, dtype=torch.float64).requires_grad_()

    def function(images):
        return augment(images, group, seeded(2), siamese)

    assert torch.autograd.gradcheck(function, images)
    assert torch.autograd.gradgradcheck(function, images)


def test_works_under_function_transforms():
    images = batch()
    gradient = torch.func.grad(lambda images: augment(images, "rotate", seeded()).square().sum())(images)
    assert gradient.shape == images.shape


@pytest.mark.parametrize("group", GROUPS)
def test_can_be_stacked_once_drawn(group):
    images, parameters = batch(2, *SHAPE), torch.stack([drawn(group, 6, 8, 8, seed) for seed in range(2)])
    stacked = torch.func.vmap(GROUPS[group].apply)(images, parameters)
    for got, each, own in zip(stacked, images, parameters, strict=True):
        torch.testing.assert_close(got, GROUPS[group].apply(each, own))


@pytest.mark.parametrize("strategy", [ALL, "color_rotate"])
def test_what_is_drawn_beforehand_is_what_is_applied(strategy):
    images, before, at_once = batch(), seeded(), seeded()
    for _ in range(12):
        group, parameters = draw(strategy, 6, 8, 8, before)
        assert parameters.shape == (6, GROUPS[group].parameters)
        expected = GROUPS[group].apply(images, parameters)
        assert torch.equal(augment(images, strategy, at_once), expected)


@pytest.mark.parametrize("shape", [(6, 3, 8, 8), (4, 1, 5, 9), (2, 2, 1, 4)])
def test_rotation_does_not_depend_on_whether_gradients_are_wanted(shape):
    images = batch(*shape, dtype=torch.float64)
    plain = augment(images, "rotate", seeded())
    torch.testing.assert_close(augment(images.requires_grad_(), "rotate", seeded()), plain)


def test_groups_are_chosen_uniformly_for_the_whole_batch():
    ones, generator = torch.ones(4, 1, 8, 8), seeded()
    cut = [bool((augment(ones, "flip_cutout", generator) == 0).any(dim=(1, 2, 3)).all()) for _ in range(400)]
    assert 160 < sum(cut) < 240


def test_color_is_brightness_then_saturation_then_contrast():
    images, uniform = batch(), drawn("color", 6, 8, 8)
    assert uniform.shape == (6, 3)
    result = GROUPS["color"].apply(images, uniform)
    for image, (brightness, saturation, contrast), got in zip(images, uniform, result, strict=True):
        bright = image + brightness - 0.5
        grey = bright.mean(0)
        saturated = (bright - grey) * 2 * saturation + grey
        expected = (saturated - saturated.mean()) * (contrast + 0.5) + saturated.mean()
        torch.testing.assert_close(got, expected)


def test_color_of_one_channel_keeps_the_mean_within_half():
    images = batch(200, 1, 8, 8)
    moved = augment(images, "color", seeded()).mean((1, 2, 3)) - images.mean((1, 2, 3))
    assert moved.abs().max() <= 0.5
    assert moved.min() < -0.45
    assert moved.max() > 0.45


@pytest.mark.parametrize(("side", "reach"), [(32, 4), (28, 4), (8, 1), (64, 8), (3, 0)])
def test_crop_shifts_by_whole_pixels_up_to_an_eighth(side, reach):
    shifts = drawn("crop", 500, side, side)
    assert set(shifts.unique().tolist()) == set(range(-reach, reach + 1))


def test_crop_moves_rows_and_columns_and_fills_with_zero():
    images, shifts = batch(), torch.tensor([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1], [1, -1]]).float()
    result = GROUPS["crop"].apply(images, shifts)
    padded = F.pad(images, (1, 1, 1, 1))
    for image, (down, right), got in zip(padded, shifts.int().tolist(), result, strict=True):
        assert torch.equal(got, image[:, 1 - down : 9 - down, 1 - right : 9 - right])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (9, 6)])
def test_cutout_clears_a_square_of_half_the_side_clipped_at_the_border(height, width):
    result = augment(torch.ones(500, 2, height, width), "cutout", seeded())
    zero = result == 0
    assert torch.equal(zero[:, 0], zero[:, 1])
    assert set(result.unique().tolist()) == {0.0, 1.0}
    for side, cleared in ((height, zero[:, 0].any(2)), (width, zero[:, 0].any(1))):
        hole = int(side * 0.5 + 0.5)
        lengths = cleared.sum(1)
        assert set(lengths.tolist()) == set(range(hole - hole // 2, hole + 1))
        assert ((cleared.int().diff() != 0).sum(1) <= 2).all()
    areas = zero[:, 0].any(2).sum(1) * zero[:, 0].any(1).sum(1)
    assert torch.equal(areas, zero[:, 0].sum((1, 2)))


def test_cutout_centre_is_uniform():
    centres = drawn("cutout", 9000, 8, 8)
    counts = torch.bincount(centres[:, 0].long(), minlength=9)
    assert len(counts) == 9
    assert counts.min() > 850
    assert counts.max() < 1150


def test_flip_mirrors_half_of_the_images():
    images = batch(1000, 1, 4, 4)
    result = augment(images, "flip", seeded())
    flipped = (result == images.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(flipped, ~(result == images).all(dim=(1, 2, 3)))
    assert 430 < flipped.sum() < 570


def sampled(images, matrix):
    """The reference: torch's own affine sampling as in the published code."""
    grid = F.affine_grid(matrix, list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


def test_scale_is_the_affine_sampling_of_the_literature():
    images = batch(50, 3, 8, 8, dtype=torch.float64)
    factors = drawn("scale", 50, 8, 8).double()
    assert 1 / 1.2 - 1e-6 <= factors.min() < 0.85
    assert 1.18 < factors.max() <= 1.2 + 1e-6
    assert (factors[:, 0] - factors[:, 1]).abs().max() > 0.1
    matrix = torch.zeros(50, 2, 3, dtype=torch.float64)
    matrix[:, 0, 0], matrix[:, 1, 1] = factors[:, 1], factors[:, 0]
    torch.testing.assert_close(GROUPS["scale"].apply(images, factors), sampled(images, matrix))


def test_rotate_is_the_affine_sampling_of_the_literature():
    images = batch(50, 3, 8, 8, dtype=torch.float64)
    angles = drawn("rotate", 50, 8, 8).double()
    limit = math.radians(15)
    assert angles.abs().max() <= limit + 1e-6
    assert angles.min() < -0.9 * limit
    assert angles.max() > 0.9 * limit
    cos, sin, zero = angles[:, 0].cos(), angles[:, 0].sin(), torch.zeros(50)
    matrix = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    torch.testing.assert_close(GROUPS["rotate"].apply(images, angles), sampled(images, matrix))


def test_rotate_by_a_right_angle_turns_an_oblong_about_its_middle():
    images = torch.zeros(1, 1, 3, 5, dtype=torch.float64)
    images[0, 0, 1, 1:4] = torch.tensor([1.0, 2.0, 3.0])
    result = GROUPS["rotate"].apply(images, torch.tensor([[math.pi / 2]], dtype=torch.float64))
    torch.testing.assert_close(result[0, 0, :, 2], torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("group", ["scale", "rotate", "crop"])
def test_neutral_parameters_change_nothing(group):
    neutral = {"scale": torch.ones(6, 2), "rotate": torch.zeros(6, 1), "crop": torch.zeros(6, 2)}[group]
    torch.testing.assert_close(GROUPS[group].apply(batch(), neutral), batch())


@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from([*GROUPS, ALL, "flip_crop"]),
    st.tuples(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 12), st.integers(1, 12)),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_gives_finite_images_of_that_shape(seed, strategy, shape):
    result = augment(batch(*shape), strategy, seeded(seed))
    assert result.shape == torch.Size(shape)
    assert torch.isfinite(result).all()
    assert result.abs().max() <= 20

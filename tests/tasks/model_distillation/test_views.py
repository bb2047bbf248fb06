import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tasks.model_distillation import geometry
from tasks.model_distillation.views import PRESETS, Extent, Views, apply, draw

IMAGES = torch.randint(0, 256, (40, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
EXTENT = Extent.of(IMAGES)
EVERY = np.arange(40)
EXACT = (
    "none",
    "crop_flip",
    "resized_crop",
    {"padding": 2, "flip": True, "mix": "cutmix"},
    {"scale": (0.3, 0.9), "mix": "mixup", "alpha": 0.8},
)
DSA = {"dsa": "color_crop_cutout_flip_scale_rotate"}


def seen(views, samples, *, seed=3, epochs=0):
    views = Views.model_validate(views)
    return apply(views, IMAGES, draw(views, seed, epochs, np.asarray(samples), EXTENT))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(EXACT), st.lists(st.integers(0, 39), min_size=1, max_size=9), st.integers(0, 2**62))
def test_a_view_does_not_depend_on_the_batch(views, samples, seed):
    epochs = np.array(samples) % 3
    together = seen(views, samples, seed=seed, epochs=epochs)
    alone = [
        seen(views, [sample], seed=seed, epochs=int(epoch))
        for sample, epoch in zip(samples, epochs, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=9), st.integers(0, 2**62))
def test_a_view_of_dsa_does_not_depend_on_the_batch_beyond_rounding(samples, seed):
    alone = torch.cat([seen(DSA, [sample], seed=seed) for sample in samples])
    torch.testing.assert_close(seen(DSA, samples, seed=seed), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("views", [*EXACT[1:], DSA])
def test_views_change_with_the_epoch_and_the_seed(views):
    first = seen(views, EVERY)
    assert not torch.equal(first, seen(views, EVERY, epochs=1))
    assert not torch.equal(first, seen(views, EVERY, seed=4))
    assert torch.equal(first, seen(views, EVERY))


def test_no_views_leave_the_pixels_as_they_are():
    assert torch.equal(seen("none", EVERY), IMAGES.float() / 255)


def value(image, box, flip, channel, row, column):
    """One pixel of a view, by its definition: of a box that is shifted, or one that is stretched."""
    top, left, height, width = box
    rows, columns = image.shape[1:]
    column = columns - 1 - column if flip else column
    if (height, width) == (rows, columns):
        row, column = top + row, left + column
        within = 0 <= row < rows and 0 <= column < columns
        return np.float32(image[channel, row, column] if within else 0) / np.float32(255)

    def between(side, length, number):
        place = max(
            (np.float32(number) + np.float32(0.5)) / np.float32(side) * np.float32(length), np.float32(0.5)
        )
        place = place - np.float32(0.5)
        return int(place), min(int(place) + 1, length - 1), place - np.float32(int(place))

    upper, lower, down = between(rows, height, row)
    before, after, across = between(columns, width, column)

    def blended(line):
        one, other = (
            np.float32(image[channel, top + line, left + at]) / np.float32(255) for at in (before, after)
        )
        return one * (1 - across) + other * across

    return blended(upper) * (1 - down) + blended(lower) * down


@settings(deadline=None, max_examples=25)
@given(
    crop=st.sampled_from([{}, {"padding": 1}, {"padding": 4}, {"scale": (0.08, 1.0)}, {"scale": (0.5, 0.7)}]),
    flip=st.booleans(),
    mix=st.sampled_from(["none", "cutmix", "mixup"]),
    samples=st.lists(st.integers(0, 39), min_size=1, max_size=6),
    seed=st.integers(0, 2**62),
)
def test_a_batch_of_views_is_what_their_definition_gives_pixel_by_pixel(crop, flip, mix, samples, seed):
    views = Views.model_validate({**crop, "flip": flip, "mix": mix})
    drawn = draw(views, seed, np.arange(len(samples)), np.array(samples), EXTENT)
    found = apply(views, IMAGES, drawn).numpy()
    images, mixture = IMAGES.numpy(), drawn.mixture
    pixel = np.random.default_rng(seed).integers(0, found.shape[1:], (20, 3)).tolist()
    for number, sample in enumerate(samples):
        share = np.float32(drawn.shares[number])
        own = images[sample], drawn.boxes.sides[number].tolist(), bool(drawn.boxes.flips[number])
        for place in pixel:
            expected = value(*own, *place)
            if mixture is not None:
                sides, turned = mixture.boxes.sides[number].tolist(), bool(mixture.boxes.flips[number])
                other = value(images[mixture.partners[number]], sides, turned, *place)
                top, bottom, left, right = mixture.holes[number].tolist()
                inside = top <= place[1] < bottom and left <= place[2] < right
                cut = other if inside else expected
                expected = cut if mix == "cutmix" else expected * share + other * (1 - share)
            assert found[number][tuple(place)] == expected


def test_a_crop_shows_the_padded_image_shifted():
    views = Views(padding=3, flip=True)
    drawn = draw(views, 0, 0, EVERY, EXTENT)
    padded = functional.pad(IMAGES, (3, 3, 3, 3))
    for number, (top, left, height, width) in enumerate(drawn.boxes.sides.tolist()):
        assert (height, width) == (12, 10)
        assert -3 <= min(top, left) <= max(top, left) <= 3
        part = padded[number, :, top + 3 : top + 15, left + 3 : left + 13] / 255
        expected = part.flip(2) if drawn.boxes.flips[number] else part
        assert torch.equal(apply(views, IMAGES, drawn)[number], expected)
    assert 5 < drawn.boxes.flips.sum() < 35


def test_a_resized_crop_is_torchs_interpolation_of_its_box():
    views = Views(scale=(0.1, 0.9))
    drawn = draw(views, 0, 0, EVERY, EXTENT)
    found = apply(views, IMAGES, drawn)
    for number, (top, left, height, width) in enumerate(drawn.boxes.sides.tolist()):
        part = IMAGES[number : number + 1, :, top : top + height, left : left + width].float() / 255
        expected = functional.interpolate(part, (12, 10), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found[number], expected[0], rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 1), st.floats(0.05, 1), st.integers(4, 40), st.integers(4, 40), st.integers(0, 2**62))
def test_boxes_of_a_resized_crop_fit_and_have_their_area(one, other, height, width, seed):
    scale = (min(one, other), max(one, other))
    samples = np.arange(200)
    boxes = geometry.resized_boxes(scale, seed, samples * 0, samples, height, width)
    top, left, tall, wide = boxes.T
    assert (boxes >= [0, 0, 1, 1]).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    middle = (boxes == geometry._middle(height, width)).all(1)
    rounding = (tall + wide + 1) / 2
    assert (np.abs(np.log(wide / tall)) <= np.log(4 / 3) + 1 / tall + 1 / wide)[~middle].all()
    assert (tall * wide >= scale[0] * height * width - rounding)[~middle].all()
    assert (tall * wide <= scale[1] * height * width + rounding)[~middle].all()


def test_cutmix_fills_a_box_of_the_share_it_tells():
    views = Views(mix="cutmix", padding=2)
    drawn, plain = draw(views, 1, 0, EVERY, EXTENT), Views(padding=2)
    found = apply(views, IMAGES, drawn)
    own, other = (seen(plain, samples, seed=1) for samples in (EVERY, drawn.partners))
    hole = geometry.inside(drawn.mixture.holes, found)
    assert torch.equal(found, torch.where(hole, other, own))
    assert np.allclose(1 - hole.float().mean((1, 2, 3)).numpy(), drawn.shares)
    assert drawn.shares.min() < 0.5 < drawn.shares.max()
    assert len(np.unique(drawn.partners)) > 15


def test_mixup_blends_by_the_share_it_tells():
    views = Views(mix="mixup")
    drawn = draw(views, 1, 0, EVERY, EXTENT)
    share = torch.from_numpy(drawn.shares).float()[:, None, None, None]
    own, other = (IMAGES[torch.from_numpy(samples)] / 255 for samples in (EVERY, drawn.partners))
    torch.testing.assert_close(apply(views, IMAGES, drawn), share * own + (1 - share) * other)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_shares_follow_beta(alpha):
    extent = Extent(20_000, 8, 8)
    shares = draw(Views(mix="mixup", alpha=alpha), 0, 0, np.arange(20_000), extent).shares
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_nothing_mixed_is_all_the_sample_itself():
    drawn = draw(Views(padding=1), 0, 0, EVERY, EXTENT)
    assert np.array_equal(drawn.partners, EVERY)
    assert (drawn.shares == 1).all()


def test_each_dsa_group_comes_up_and_stays_near_the_image():
    strategy = Views(dsa="flip_crop")
    groups, _ = draw(strategy, 0, 0, EVERY, EXTENT).dsa
    assert set(groups.tolist()) == {0, 1}
    found = seen(strategy, EVERY, seed=0)
    for number in range(40):
        image = IMAGES[number] / 255
        if groups[number] == 0:
            mirrored = image.flip(2)
            assert any(torch.allclose(found[number], one, atol=1e-6) for one in (image, mirrored))


def test_short_names():
    assert Views.model_validate("crop_flip") == Views(padding=4, flip=True)
    assert {name: Views.model_validate(name) for name in PRESETS}["none"] == Views()


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ("crop_flop", "unknown views 'crop_flop'; expected none, crop_flip"),
        ({"padding": 4, "scale": (0.5, 1.0)}, "both `padding` and `scale` crop"),
        ({"scale": (0.5, 0.2)}, "0 < least <= largest <= 1"),
        ({"dsa": "crop_rotat"}, "did you mean 'rotate'"),
        ({"mix": "cutmix", "alpha": 0.0}, "greater than 0"),
    ],
)
def test_refuses_what_cannot_be(views, message):
    with pytest.raises(ValueError, match=message):
        Views.model_validate(views)

import numpy as np
import pytest

from gan.generation.hole import MeanPaint, mean_paint, ventricle_hole


def test_each_tissue_gets_the_mean_of_its_training_pixels(make_store):
    store = make_store(5)
    images, masks = store.images().astype(np.float64), store.masks()
    paint = mean_paint(store)
    expected = [images[masks == value].mean() for value in range(5)]
    assert paint.intensities.tolist() == pytest.approx(expected, rel=1e-5)
    assert np.array_equal(paint(masks), paint.intensities[masks])


def test_in_context_only_the_hole_is_painted(make_slices):
    images, masks = make_slices(3)
    paint = MeanPaint(np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32))
    painted = paint.in_context(images, masks, hole_margin_px=2)
    hole = ventricle_hole(masks, 2) > 0
    assert np.array_equal(painted[~hole], images[~hole])
    assert np.array_equal(painted[hole], paint(masks)[hole])


def test_a_tissue_that_training_lacks_is_painted_grey(make_store, monkeypatch):
    store = make_store(2)
    masks = np.where(store.masks() == 4, 3, store.masks())
    monkeypatch.setattr(type(store), "masks", lambda _, rows: masks[rows])
    assert mean_paint(store).intensities[4] == pytest.approx(store.images().astype(np.float64).mean(), rel=1e-4)

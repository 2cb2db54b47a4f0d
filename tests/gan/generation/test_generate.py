import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from common.errors import InputError
from gan.generation.hole import ventricle_hole
from gan.generation.slices import Synthesiser, generate_slices, load_exportable, load_generator, redraw
from gan.generation.synthesiser import generator_channels
from gan.networks.generator import Generator
from gan.training.config import PRESETS
from imaging.labels import EMIDEC_LABELS
from imaging.slices.store import SliceStore
from runtime.model_card import ModelCard
from runtime.model_folder import write_model_folder


@pytest.fixture
def make_model(tiny_config, tmp_path):
    """Write a model folder with an untrained generator."""

    def make(name="model", label_set="emidec", **changes):
        config = tiny_config.model_copy(update=changes)
        torch.manual_seed(0)
        generator = Generator(generator_channels(config, EMIDEC_LABELS), config)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.mul_(3)  # louder than an untrained network, so that differences show
        card = ModelCard(label_set=label_set, selected_step=7)
        write_model_folder(tmp_path / name, generator.state_dict(), config, card)
        return tmp_path / name

    return make


@pytest.fixture
def generate(make_model, make_store, compute, tmp_path):
    def generate(count, name="synthetic", seed=3, batch=256, **changes):
        folder = make_model(**changes)
        masks = make_store(5, seed=8, origin="synthetic")
        generate_slices(folder, masks, tmp_path / f"{name}.h5", count, compute, seed, "test", batch)
        return SliceStore.open(tmp_path / f"{name}.h5"), masks

    return generate


def test_the_batch_size_changes_no_bit(generate):
    one, _ = generate(40, "one", batch=16)
    other, _ = generate(40, "other", batch=32)
    assert one.digest == other.digest


def kill_at_the_second_batch(*arguments):
    """Generate in this process and kill it while it draws for the second time."""
    draw, calls = Synthesiser.draw, []

    def drawing(self, *given):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(self, *given)

    Synthesiser.draw = drawing
    generate_slices(*arguments)


def test_a_killed_generation_leaves_no_store_and_the_next_is_whole(make_model, make_store, compute, tmp_path):
    folder, masks = make_model(), make_store(5, seed=8, origin="synthetic")

    def arguments(name):
        return folder, masks, tmp_path / name, 40, compute, 3, "test", 16

    process = multiprocessing.get_context("fork").Process(target=kill_at_the_second_batch, args=arguments("killed.h5"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed.h5").exists()
    for name in ("killed.h5", "whole.h5"):
        generate_slices(*arguments(name))
    assert (tmp_path / "killed.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_longer_series_begins_with_the_shorter_one(generate):
    short, _ = generate(3, "short")
    long, _ = generate(20, "long")
    assert np.array_equal(long.images(slice(0, 3)), short.images())


def test_outside_the_hole_is_the_real_background_and_inside_is_drawn(generate):
    synthetic, masks = generate(5)
    hole = masks.extra("hole") > 0
    assert np.array_equal(synthetic.images()[~hole], masks.images()[~hole])
    assert (synthetic.images()[hole] != masks.images()[hole]).mean() > 0.9


def test_one_mask_gives_many_images(generate):
    synthetic, _ = generate(10)
    assert np.array_equal(synthetic.masks()[:5], synthetic.masks()[5:])
    assert np.abs(synthetic.images()[0].astype(float) - synthetic.images()[5]).max() > 0


def test_another_seed_gives_other_images(generate):
    first, _ = generate(2, "first", seed=1)
    second, _ = generate(2, "second", seed=2)
    assert not np.array_equal(first.images(), second.images())


def test_donors_and_parents_are_recorded(generate):
    synthetic, masks = generate(7)
    assert set(synthetic.rows["donor_ids"]) == {"P900;P901"}
    assert set(synthetic.rows["origin"]) == {"synthetic"}
    assert synthetic.rows["replica"].tolist() == list(range(7))
    assert synthetic.rows["case_id"].tolist()[5:] == masks.rows["case_id"].tolist()[:2]
    assert synthetic.attributes.parent_digests["lesion_masks"] == masks.digest
    assert len(synthetic.attributes.parent_digests["pix2pix"]) == 64


def test_without_context_the_whole_slice_is_drawn(generate):
    synthetic, masks = generate(2, context=False)
    assert (synthetic.images() != masks.images(slice(0, 2))).mean() > 0.9


def test_redrawing_is_the_same_whatever_else_is_drawn(make_model, make_slices, compute):
    images, masks = make_slices(20)
    folder = make_model()
    drawn = redraw(folder, images, masks, compute, seed=1)
    assert np.array_equal(drawn[:3], redraw(folder, images[:3], masks[:3], compute, seed=1))
    outside = ventricle_hole(masks, 2) == 0
    assert np.array_equal(drawn[outside], images[outside])
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1


@pytest.mark.parametrize("changes", [{}, {"decoder_noise": True, "decoder_labels": True, "context": False}])
def test_the_generator_can_be_exported(make_model, changes):
    generator = load_exportable(make_model(**changes))
    condition = torch.randn(2, 5 + 2 * changes.get("context", True) + 1, 32, 32)
    exported = torch.export.export(generator, (condition,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert torch.allclose(exported.module()(condition), generator(condition), atol=1e-5)


def test_a_context_model_needs_the_hole(make_model, make_store, compute, tmp_path):
    with pytest.raises(InputError, match=r"augmented_0.h5: lacks the extra 'hole'"):
        generate_slices(make_model(), make_store(), tmp_path / "out.h5", 2, compute, 0, "test")


def test_masks_of_another_source_are_refused(make_store, compute, tmp_path, tiny_config):
    from imaging.labels import CINE_LABELS

    generator = Generator(generator_channels(tiny_config, CINE_LABELS), tiny_config)
    card = ModelCard(label_set="cine", selected_step=1)
    write_model_folder(tmp_path / "cine", generator.state_dict(), tiny_config, card)
    masks = make_store(origin="synthetic")
    with pytest.raises(InputError, match=r"label set 'emidec', but .*cine draws 'cine'"):
        generate_slices(tmp_path / "cine", masks, tmp_path / "out.h5", 2, compute, 0, "test")


def test_broken_model_folders_are_named(make_model, compute, tmp_path):
    with pytest.raises(InputError, match=r"label set 'lungs' is unknown; rematerialise pix2pix"):
        load_generator(make_model("lungs", label_set="lungs"), compute)
    folder = make_model()
    (folder / "config.json").write_text(PRESETS["context"].model_dump_json())
    with pytest.raises(InputError, match=r"the weights do not fit config.json"):
        load_generator(folder, compute)

"""Images become patches, through the model's own processor on PIL."""

import io

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from transformers import AutoImageProcessor, AutoModel, BertConfig, Dinov2WithRegistersConfig, ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from storage.errors import InputError, RunError
from workers.document import Document, Image, Text
from workers.images import grid, load_processor, picture, pixels
from workers.tokens import Patches, Tokeniser

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}


def encoded(width=40, height=30, mode="RGB", kind="PNG", seed=0, **options) -> bytes:
    x_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(x_HWC).convert(mode).save(file, kind, **options)
    return file.getvalue()


def save(folder, config=None, size=32) -> str:
    (config or ViTConfig(image_size=size, **TINY)).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": size, "width": size}).save_pretrained(folder)
    return str(folder)


def images(*data: bytes) -> list[Document]:
    return [Document(f"{n}.png", Image(one), {"n": n}) for n, one in enumerate(data)]


def test_pixels_are_what_the_models_own_processor_gives(tmp_path):
    source = save(tmp_path)
    data = [encoded(), encoded(100, 20, seed=1)]
    x_NCHW = pixels(load_processor(source, None), data)
    own = AutoImageProcessor.from_pretrained(source, backend="pil")
    expected = own(images=[Pillow.open(io.BytesIO(one)).convert("RGB") for one in data], return_tensors="pt")
    assert x_NCHW.shape == (2, 3, 32, 32)
    assert torch.equal(x_NCHW, expected["pixel_values"])


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("1", "BMP")]
)
def test_any_mode_of_image_gives_three_channels(tmp_path, mode, kind):
    assert pixels(load_processor(save(tmp_path), None), [encoded(mode=mode, kind=kind)]).shape == (1, 3, 32, 32)


def test_a_turned_photograph_is_put_upright():
    turned = Pillow.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    assert picture(file.getvalue(), "a").size == (2, 4)


@pytest.mark.parametrize(("special", "first"), [(False, 0), (True, -1)])
def test_an_image_is_a_sequence_of_patches(tmp_path, special, first):
    data = [encoded(), encoded(seed=1)]
    found = list(Tokeniser(save(tmp_path), None, Patches(special=special))(images(*data)))
    assert [(span.sequence, span.document, span.key) for span in found] == [(0, 0, "0.png"), (1, 1, "1.png")]
    assert [span.image for span in found] == data
    assert found[0].input_ids.tolist() == ([-1] if special else []) + list(range(16))
    assert found[0].input_ids[0] == first
    assert found[0].input_ids.dtype == np.int32
    assert found[1].labels == {"n": 1}
    assert (found[0].begin, found[0].end, found[0].text) == (None, None, None)


def test_rows_of_patches_and_special_tokens_are_those_of_the_model(tmp_path):
    config = Dinov2WithRegistersConfig(image_size=32, num_register_tokens=3, **TINY)
    source = save(tmp_path, config)
    processor = load_processor(source, None)
    n_patches, n_special = grid(source, None, processor)
    rows = AutoModel.from_config(config)(pixels(processor, [encoded()])).last_hidden_state
    assert (n_patches, n_special) == (16, 4)
    assert rows.shape[1] == n_patches + n_special
    (span,) = Tokeniser(source, None, Patches(special=True))(images(encoded()))
    assert span.input_ids[:5].tolist() == [-1, -2, -3, -4, 0]


def test_the_processors_size_counts_not_the_configurations(tmp_path):
    Dinov2WithRegistersConfig(image_size=64, num_register_tokens=0, **TINY).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 24}).save_pretrained(tmp_path)
    assert grid(str(tmp_path), None, load_processor(str(tmp_path), None)) == (6, 1)


@pytest.mark.parametrize("damage", [b"", b"not an image", encoded()[:200], encoded(kind="JPEG")[:300]])
def test_a_broken_image_is_refused_by_name(tmp_path, damage):
    tokeniser = Tokeniser(save(tmp_path), None, Patches())
    with pytest.raises(RunError, match=r"document 1\.png: its \d+ bytes are not a readable image"):
        list(tokeniser(images(encoded(), damage)))


def test_text_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="document t holds Text, and this tokenisation takes an image"):
        list(Tokeniser(save(tmp_path), None, Patches())([Document("t", Text("a"))]))


def test_a_model_without_processor_or_patches_is_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no image processor"):
        Tokeniser(str(tmp_path), None, Patches())
    save(tmp_path, BertConfig())
    with pytest.raises(InputError, match="has no patch_size"):
        Tokeniser(str(tmp_path), None, Patches())


def test_a_processor_that_keeps_images_sizes_is_refused(tmp_path):
    save(tmp_path)
    ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="of several sizes"):
        Tokeniser(str(tmp_path), None, Patches())

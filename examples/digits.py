"""A small vision transformer and the images it learnt: `python -m examples.digits` trains it in build/digits.

The images are the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels of 17 grey levels; a patch is 2 x 2 of them.
"""

import argparse
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

log = logging.getLogger(__name__)

BUILD = Path(__file__).resolve().parent.parent / "build" / "digits"
SIZE, LEVELS = 8, 16
STEPS, BATCH, LR = 500, 128, 2e-3


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the images and the model, unless they are there."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=BUILD, help=f"where to ({BUILD})")
    folder = parser.parse_args(arguments).folder
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = load_digits(return_X_y=True)
    if not (folder / "digits.parquet").exists():
        write(folder / "digits.parquet", pictures, labels)
    if not (folder / "vit" / "config.json").exists():
        accuracy = train(folder / "vit", pictures, labels)
        log.info("digits: %.1f %% of held-out images are told right", 100 * accuracy)


def write(path: Path, pictures: np.ndarray, labels: np.ndarray) -> None:
    """An image a line, as PNG, with its digit as the label."""
    columns = {
        "id": [f"digit-{n:04d}" for n in range(len(pictures))],
        "image": [png(one) for one in pictures],
        "digit": [str(label) for label in labels],
    }
    part = path.with_suffix(".part")
    pq.write_table(pa.table(columns), part)
    part.rename(path)


def png(picture: np.ndarray) -> bytes:
    """A grey image of a row of pixels."""
    sink = io.BytesIO()
    Image.fromarray((picture.reshape(SIZE, SIZE) * (255 / LEVELS)).astype(np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def train(folder: Path, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Train on 70 % of the images and save the model with its processor; the accuracy on the others."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=SIZE,
        patch_size=2,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        num_labels=10,
    )
    model = ViTForImageClassification(config)
    x = pixels(pictures)
    training, held, y, held_y = train_test_split(x, torch.from_numpy(labels), test_size=0.3, random_state=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, STEPS)
    for _ in range(STEPS):
        some = torch.randint(len(training), (BATCH,))
        loss = model(pixel_values=training[some], labels=y[some]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        pace.step()
    model.eval().save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.save_pretrained(folder)
    with torch.no_grad():
        return float((model(pixel_values=held).logits.argmax(1) == held_y).float().mean())


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """As the processor makes them: three equal channels from -1 to 1."""
    grey = torch.from_numpy(pictures.reshape(-1, 1, SIZE, SIZE) / LEVELS * 2 - 1).float()
    return grey.expand(-1, 3, -1, -1)


if __name__ == "__main__":
    main()

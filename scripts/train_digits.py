"""Train the two networks that ship with Netopsy: `python scripts/train_digits.py`.

Two VGG-16-shaped networks with batch normalisation, one architecture, seeds 0 and 1, on the handwritten digits of
scikit-learn resized to 32x32. Each epoch shifts every image by up to 3 pixels. The 540 held-out digits are those that
`netopsy.load_samples("digits")` gives: they play no part in training, nor in choosing when to stop. One thread and
deterministic kernels make the files repeat bit for bit on one machine.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from netopsy.network.zoo.vgg import PREPROCESSING, digits_vgg
from netopsy.samples.load import load_samples

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "netopsy" / "network" / "shipped"
SEEDS = {"a": 0, "b": 1}


def load(split: str) -> tuple[Tensor, Tensor]:
    """Normalised images, float32 (n, 1, 32, 32), and labels, int64 (n,)."""
    samples = load_samples("digits", split=split)
    (batch,) = samples.batches(PREPROCESSING, len(samples))
    return batch.images, batch.labels


def shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `reach` pixels either way; the border repeats."""
    count, _, height, width = images.shape
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    rows = torch.randint(0, 2 * reach + 1, (count, 1, 1), generator=generator) + torch.arange(height)[None, :, None]
    columns = torch.randint(0, 2 * reach + 1, (count, 1, 1), generator=generator) + torch.arange(width)[None, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns][:, None]


def train(seed: int, epochs: int, count: int | None = None, batch_size: int = 64) -> nn.Module:
    """One network trained by SGD with Nesterov momentum under a one-cycle schedule, on the first `count` digits."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    module = digits_vgg()
    images, labels = (part[:count] for part in load("train"))
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    module.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: len(order) // batch_size * batch_size].split(batch_size):
            loss = F.cross_entropy(module(shifted(images[batch], 3, generator)), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()


@torch.inference_mode()
def accuracy(module: nn.Module, split: str) -> float:
    """Share of the split's digits that are named rightly."""
    images, labels = load(split)
    return float((module(images).argmax(1) == labels).float().mean())


def sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order: the library writes them in another order each time."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--tiny", action="store_true", help="one epoch on a few digits, into the folder `tiny`")
    settings = parser.parse_args()
    if settings.tiny:
        settings.epochs, settings.out = 1, Path("tiny")
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    scores = {}
    for letter, seed in SEEDS.items():
        start = time.time()
        module = train(seed, settings.epochs, 128 if settings.tiny else None)
        scores[letter] = score = accuracy(module, "test")
        path = settings.out / f"digits-vgg-{letter}.safetensors"
        metadata = {
            "architecture": f"netopsy:digits_{letter}",
            "accuracy": f"{score:.4f} on the 540 held-out digits",
            "seed": str(seed),
            "command": f"python scripts/train_digits.py --epochs {settings.epochs}",
            "mean": str(PREPROCESSING.mean[0]),
            "std": str(PREPROCESSING.std[0]),
        }
        save_file({name: t.contiguous() for name, t in module.state_dict().items()}, path, metadata=metadata)
        sort_metadata(path)
        print(
            f"{path.name}: {score:.2%} held out, {accuracy(module, 'train'):.2%} on the training digits, "
            f"{path.stat().st_size:,} bytes, {time.time() - start:.0f} s"
        )
    print(json.dumps({"script": "train_digits", "accuracy": scores}))


if __name__ == "__main__":
    main()

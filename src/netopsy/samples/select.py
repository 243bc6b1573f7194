"""Single images by number, as a user names them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples


def check_images(samples: Samples, numbers: Sequence[int]) -> None:
    """Raise SettingsError for a number that is none of the samples'."""
    outside = [str(number) for number in numbers if not 0 <= number < len(samples)]
    if outside:
        raise SettingsError(f"no image {', '.join(outside)} in {samples.name}; give 0 to {len(samples) - 1}.")


def read_images(
    network: Network, samples: Samples, numbers: Sequence[int]
) -> Float32[Tensor, "n channel height width"]:
    """The preprocessed images of these numbers, in their order, on the network's device.

    Raises SettingsError for a number that is none of the samples', SamplesError for an image that cannot be read.
    """
    check_images(samples, numbers)
    (batch,) = samples.batches(network.preprocessing, len(numbers), order=list(numbers))
    return batch.images.to(network.device)

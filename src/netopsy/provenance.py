"""Where a result came from: versions, digests, time."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from netopsy._version import __version__

if TYPE_CHECKING:
    from netopsy.network.network import Network
    from netopsy.samples.samples import Samples

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "polars", "scikit-learn")


def provenance(
    network: Network | None,
    samples: Samples | None,
    seconds: float,
    *,
    features: dict[str, Any] | None = None,
    further: Mapping[str, Network] | None = None,
) -> dict[str, Any]:
    """Plain data that says what was examined, on what, with what, when, and for how long.

    features: what says which feature vectors were examined in place of a network.
    further: networks besides the first, by the name each is recorded under.
    """
    return {
        "network": None if network is None else network_record(network),
        "samples": None
        if samples is None
        else {
            "name": samples.name,
            "count": len(samples),
            "classes": len(samples.classes),
            "digest": samples.digest,
            **({} if samples.kind == "image" else {"kind": samples.kind}),
            **({} if samples.task is None else {"task": str(getattr(samples.task, "__name__", samples.task))}),
            **({"notes": list(notes)} if (notes := getattr(samples.records, "notes", ())) else {}),
        },
        **({} if features is None else {"features": features}),
        **{name: network_record(other) for name, other in (further or {}).items()},
        "versions": versions(),
        "device": None if network is None else str(network.device),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def network_record(network: Network) -> dict[str, Any]:
    """Plain data that says which network it is: its weights, its preprocessing, and where they came from."""
    return {
        "name": network.name,
        "parameters": network.parameters,
        "digest": network.digest,
        **network.provenance,
        # what is done now, beside who said so when it was loaded
        "preprocessing": network.provenance.get("preprocessing", {}) | network.preprocessing.record(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    by_package = {"netopsy": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package

"""Batches come in order, from any place, ahead of the consumer but within bounds, and end cleanly."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference_samples import within_quota

from netopsy.errors import SamplesError
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.labels import strata, stratify
from netopsy.samples.load import load_samples
from netopsy.samples.samples import Batch, prefetch

SMALL = Preprocessing((6, 6), mean=(0.5,) * 3, std=(0.25,) * 3)
LARGER = Preprocessing((9, 9), mean=(0.5,) * 3, std=(0.25,) * 3)


def samples_of(count: int):
    x = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return load_samples((x, np.arange(count) % 7))


def joined(batches) -> Batch:
    parts = zip(*((b.images, b.labels, b.indices) for b in batches), strict=True)
    images, labels, indices = (torch.cat(part) for part in parts)
    return Batch({"input": images}, labels, indices)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("netopsy-samples")]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 17),
    workers=st.sampled_from([None, 0, 1, 3]),
    preprocessing=st.sampled_from([SMALL, LARGER]),
    data=st.data(),
)
def test_a_pass_from_any_start_is_the_tail_of_the_whole_pass(count, batch_size, workers, preprocessing, data):
    samples = samples_of(count)
    order = data.draw(
        st.one_of(st.none(), st.permutations(range(count)), st.lists(st.integers(0, count - 1), min_size=1))
    )
    start = data.draw(st.integers(0, (count if order is None else len(order)) - 1))
    whole = joined(samples.batches(preprocessing, 8, order=order, workers=0))
    tail = list(samples.batches(preprocessing, batch_size, start=start, order=order, workers=workers))
    assert [len(batch.images) for batch in tail[:-1]] == [batch_size] * (len(tail) - 1)
    ended = joined(tail)
    for name in ("images", "labels", "indices"):
        assert torch.equal(getattr(ended, name), getattr(whole, name)[start:])
    assert whole.indices.tolist() == (list(range(count)) if order is None else list(order))
    assert torch.equal(whole.labels, torch.from_numpy(samples.labels)[whole.indices])
    assert whole.images.dtype == torch.float32 and whole.labels.dtype == whole.indices.dtype == torch.int64


def test_arrays_may_be_views():
    x = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    (ours,) = load_samples((x[::-1], np.arange(10)[::-2])).batches(SMALL, 5)
    (expected,) = load_samples((x[::-1].copy(), np.array([9, 7, 5, 3, 1]))).batches(SMALL, 5)
    assert all(torch.equal(getattr(ours, name), getattr(expected, name)) for name in ("images", "labels", "indices"))


def test_a_pass_from_the_end_is_empty():
    assert list(samples_of(5).batches(SMALL, 2, start=5)) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"start": 6},
        {"start": -1},
        {"batch_size": 0},
        {"order": [5]},
        {"order": [-1]},
        {"order": [0.5]},
        {"order": [[0]]},
    ],
)
def test_an_impossible_pass_is_refused_at_once(arguments):
    with pytest.raises(SamplesError):
        samples_of(5).batches(SMALL, **({"batch_size": 2} | arguments))


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_than_the_promised_batches_are_made_ahead(workers, ahead):
    started, done, received, most = 0, 0, 0, 0

    def task():
        nonlocal done
        done += 1

    def jobs():
        nonlocal started
        for number in range(20):
            started += 1
            yield number, [task] * 3

    for number in prefetch(jobs(), workers, ahead):
        assert number == received
        assert done >= 3 * (number + 1)
        time.sleep(0.002)
        most = max(most, started - received)
        received += 1
    assert received == 20 and most == ahead + 1


def test_work_overlaps_the_consumer():
    def jobs():
        for number in range(10):
            yield number, [lambda: time.sleep(0.02)]

    def seconds(workers):
        begun = time.perf_counter()
        for _ in prefetch(jobs(), workers):
            time.sleep(0.02)
        return time.perf_counter() - begun

    assert seconds(1) < 0.8 * seconds(0)


def test_an_unreadable_image_is_named_at_its_turn_and_leaves_no_thread(tmp_path):
    for name, shade in (("a", 0), ("b", 90)):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (40, 40), (shade, number, 0)).save(tmp_path / name / f"{number:02}.jpg")
    whole = (tmp_path / "b" / "03.jpg").read_bytes()
    (tmp_path / "b" / "03.jpg").write_bytes(whole[: len(whole) // 2])
    samples = load_samples(tmp_path)
    seen = []
    with pytest.raises(SamplesError, match=r"b.03\.jpg") as caught:
        for batch in samples.batches(SMALL, 4, workers=3):
            seen += batch.indices.tolist()
    assert seen == list(range(20))
    assert "\n" not in str(caught.value)
    assert not our_threads()
    (tmp_path / "b" / "03.jpg").unlink()
    with pytest.raises(SamplesError, match=r"b.03\.jpg.*No such file"):
        samples.image(23)
    with pytest.raises(SamplesError, match=r"b.03\.jpg"):
        _ = samples.digest


def test_leaving_a_pass_early_leaves_no_thread():
    batches = samples_of(40).batches(LARGER, 2, workers=3)
    next(batches)
    assert our_threads()
    batches.close()
    assert not our_threads()
    with pytest.raises(KeyboardInterrupt):
        for _ in samples_of(40).batches(LARGER, 2, workers=3):
            raise KeyboardInterrupt
    assert not our_threads()


def test_an_interrupt_ends_the_process_promptly():
    script = """
import _thread, threading, time
from netopsy.samples.samples import prefetch
threading.Timer(0.3, _thread.interrupt_main).start()
begun = time.perf_counter()
try:
    for _ in prefetch(((n, [lambda: time.sleep(0.05)] * 200) for n in range(100)), 2):
        pass
except KeyboardInterrupt:
    print(time.perf_counter() - begun, len([t for t in threading.enumerate() if "netopsy" in t.name]))
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    seconds, threads = out.split()
    assert float(seconds) < 2 and threads == "0"


def test_ten_thousand_small_images_take_under_half_a_second():
    x = np.random.default_rng(0).integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    samples = load_samples((x, np.arange(10_000) % 10))
    preprocessing = Preprocessing((32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)

    def seconds() -> float:
        begun = time.perf_counter()
        assert sum(len(batch.images) for batch in samples.batches(preprocessing, 250)) == 10_000
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(3)) < 0.5


@settings(max_examples=200, deadline=None)
@given(
    labels=st.lists(st.integers(0, 12), min_size=1, max_size=120),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_subset_holds_every_class_in_its_share(labels, share, seed):
    count = max(1, round(share * len(labels)))
    rows = stratify(np.array(labels), count, seed)
    assert len(rows) == count and (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < len(labels)
    assert within_quota(labels, [labels[row] for row in rows], count)
    assert rows.tolist() == stratify(np.array(labels), count, seed).tolist()


def test_fewer_than_the_classes_are_of_different_classes_drawn_by_the_seed():
    labels = np.repeat(np.arange(100), 5)
    class_sets = [frozenset(labels[stratify(labels, 30, seed)].tolist()) for seed in range(5)]
    assert all(len(classes) == 30 for classes in class_sets) and len(set(class_sets)) == 5


def test_rows_of_a_class_are_drawn_evenly():
    times = np.zeros(10)
    for seed in range(2000):
        times[stratify(np.zeros(10, np.int64), 3, seed)] += 1
    assert np.abs(times - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_a_row_of_several_labels_counts_for_its_rarest():
    hot = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32)
    assert strata(hot).tolist() == [1, 0, 2, 2, -1]


def test_a_subset_is_the_chosen_samples():
    samples = samples_of(70)
    part = samples.subset(21, seed=3)
    assert np.bincount(part.labels).tolist() == [3] * 7
    (batch,) = part.batches(SMALL, 100)
    assert batch.indices.tolist() == list(range(21))
    whole = {samples.image(i).tobytes(): samples.labels[i] for i in range(70)}
    assert [whole[part.image(i).tobytes()] for i in range(21)] == part.labels.tolist() == batch.labels.tolist()
    assert part.digest == samples.subset(21, seed=3).digest != samples.subset(21, seed=4).digest
    assert len(part.subset(7)) == 7
    assert "21 of 70" in part.name
    for count in (0, -1, 71, True):
        with pytest.raises(SamplesError, match="1 to 70"):
            samples.subset(count)


def test_the_digest_tells_images_labels_and_classes_apart():
    x = np.zeros((4, 3, 3, 1), np.uint8)
    y = np.arange(4)
    base = load_samples((x, y)).digest
    other = x.copy()
    other[2, 1, 1] = 1
    reshaped = load_samples((np.zeros((4, 9, 1, 1), np.uint8), y)).digest
    digests = {base, load_samples((other, y)).digest, load_samples((x, y[::-1])).digest, reshaped}
    digests.add(load_samples((x, y), classes=list("abcd")).digest)
    assert len(digests) == 5
    assert load_samples((x.copy(), y.copy())).digest == base


def test_labels_beyond_the_networks_outputs_are_refused():
    samples = samples_of(20)
    samples.check(7)
    samples.check(1000)
    with pytest.raises(SamplesError, match=r"label 6 .* 6 outputs"):
        samples.check(6)
    several = load_samples((np.zeros((2, 4, 4), np.uint8), np.eye(2)))
    several.check(2)
    for outputs in (1, 3):
        with pytest.raises(SamplesError, match=f"{outputs} outputs"):
            several.check(outputs)

"""Make the bundled digits `data/01_raw/mnist_sample/`: a stratified random sample of MNIST, as IDX files.

Every class has the share that it has in the full files; 10,000 of the 60,000 training digits and 2,000 of the 10,000
test digits, in the order in which they stand there.

    python benchmarks/make_mnist_sample.py FOLDER_OF_THE_FULL_FILES data/01_raw/mnist_sample
"""

from __future__ import annotations

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

from wm_pipelines.worlds.parts.idx import FILES, PUBLISHED_MD5, read_idx

SIZES = {"train": 10_000, "test": 2_000}
SEED = 0


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of ``count`` examples, sorted; each class has its share, rounded by the largest remainder."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / len(labels)
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    members = [np.flatnonzero(labels == c) for c in classes]
    return np.sort(np.concatenate([rng.choice(m, n, replace=False) for m, n in zip(members, shares, strict=True)]))


def idx_bytes(values: np.ndarray) -> bytes:
    """The IDX form of an array of bytes: magic number, sizes, values."""
    header = np.array([0x0800 + values.ndim, *values.shape], dtype=">u4")
    return header.tobytes() + values.tobytes()


def main(source: str, target: Path) -> None:
    """Write the four files, and print their checksums."""
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    for split, count in SIZES.items():
        views = {kind: read_idx(source, FILES[split][kind], PUBLISHED_MD5) for kind in ("images", "labels")}
        chosen = stratified(views["labels"], count, rng)
        for kind, values in views.items():
            content = idx_bytes(values[chosen])
            path = target / f"{FILES[split][kind]}.gz"
            path.write_bytes(gzip.compress(content, 9, mtime=0))
            print(f'"{FILES[split][kind]}": "{hashlib.md5(content).hexdigest()}",  # {path.stat().st_size} bytes')


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""IDX files, the form in which MNIST is published: from a folder or from the web, packed by gzip or not.

A file is a magic number (two zero bytes, 8 for unsigned bytes, the number of axes), one big-endian size per axis, and
the values (LeCun, Cortes & Burges, http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wm_pipelines.errors import UserError
from wm_pipelines.files import project_path

FILES = {
    "train": {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"},
    "test": {"images": "t10k-images-idx3-ubyte", "labels": "t10k-labels-idx1-ubyte"},
}
# Of the files unpacked, which do not depend on the program that packed them.
PUBLISHED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# Of the files packed, the only ones that are published: github.com/zalandoresearch/fashion-mnist.
FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_PACKED = b"\x1f\x8b"
_SECONDS = 60.0  # without an answer, until a download is given up


def read_idx(source: str, name: str, md5: Mapping[str, str] | None = None) -> NDArray[np.uint8]:
    """The values of one file, shaped as its header says.

    Args:
        source: a folder (relative: from the project's root) or the beginning of a URL.
        name: of the file, without ``.gz``; the packed file is looked for first.
        md5: checksums by name, of the unpacked file or (``NAME.gz``) of the packed one; None: any content will do.

    Raises:
        UserError: the file is missing, damaged, or not the one that was asked for.
    """
    place, stored, content = _unpacked(source, name)
    if md5 is not None:
        _check(place, name, stored, content, md5)
    axes = content[3] if len(content) > 3 else 0
    header = 4 + 4 * axes
    if content[:3] != b"\x00\x00\x08" or axes == 0 or len(content) < header:
        raise UserError(f"'{place}' is not an IDX file of bytes; give the folder of the files as published")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, 4))
    if len(content) != header + prod(shape):
        raise UserError(
            f"'{place}' is truncated or too long: {len(content) - header} values, its header says {prod(shape)}; "
            "get the file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _check(place: str, name: str, stored: bytes, content: bytes, md5: Mapping[str, str]) -> None:
    """Refuse a file that is not the published one."""
    expected = md5[name] if name in md5 else md5[f"{name}.gz"]
    if name not in md5 and stored[:2] != _PACKED:
        raise UserError(
            f"'{place}' is unpacked, and the published checksum is that of '{name}.gz'; "
            "give the packed file, or set `verify: false`"
        )
    found = hashlib.md5(content if name in md5 else stored, usedforsecurity=False).hexdigest()
    if found != expected:
        raise UserError(
            f"'{place}': wrong checksum (MD5 {found}, expected {expected}); get the file again, "
            "or set `verify: false` if it is meant to be other data in this form"
        )


def is_url(source: str) -> bool:
    """Whether that is to be downloaded."""
    return source.startswith(("http://", "https://"))


def _unpacked(source: str, name: str) -> tuple[str, bytes, bytes]:
    """Where the file was found, its bytes as they lie there, and unpacked."""
    tried = []
    for suffix in (".gz", ""):
        if is_url(source):
            place = f"{source.rstrip('/')}/{name}{suffix}"
            content = _downloaded(place)
        else:
            path = project_path(source) / f"{name}{suffix}"
            place, content = str(path), _read(path)
        if content is None:
            tried.append(place)
            continue
        try:
            # Some servers unpack on the way: look at the content, not at the name.
            return place, content, gzip.decompress(content) if content[:2] == _PACKED else content
        except (EOFError, OSError, zlib.error) as error:
            raise UserError(f"'{place}' is damaged ({error}); get the file again") from error
        except MemoryError:
            raise UserError(f"'{place}' does not fit into memory when unpacked; is it the right file?") from None
    raise UserError(f"no '{tried[0]}' and no '{tried[1]}'; give the folder or URL that has the files")


def _read(path: Path) -> bytes | None:
    """The bytes of a file; None where there is none."""
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror or error}; check its permissions") from error
    except MemoryError:
        raise UserError(f"'{path}' does not fit into memory; is it the right file?") from None


def _downloaded(url: str) -> bytes | None:
    """The bytes at a URL; None where the server has no such file."""
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code in (403, 404):
            return None
        raise UserError(f"'{url}': the server answers {error.code} {error.reason}; try again later") from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # the last: an answer that breaks off
        raise UserError(f"cannot download '{url}': {error}; check the URL and the network") from error

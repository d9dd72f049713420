"""Faults of published files that the user brings: one line each."""

import gzip
import http.client
from pathlib import Path

import numpy as np

from tests.user_files import refused
from wm_pipelines.worlds.mass_spring import MassSpring
from wm_pipelines.worlds.parts import idx
from wm_pipelines.worlds.parts.idx import FILES, read_idx
from wm_pipelines.worlds.parts.paper_files import read_paper_files


def test_no_memory_and_no_permission_are_no_damage_of_idx_files(tmp_path, monkeypatch):
    name = FILES["train"]["labels"]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07"))
    assert read_idx(str(tmp_path), name).tolist() == [7]

    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(idx.gzip, "decompress", full)
        assert "does not fit into memory when unpacked; is it the right file?" in refused(read_idx, str(tmp_path), name)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "ubyte.gz': Permission denied; check its permissions" in refused(read_idx, str(tmp_path), name)


def test_a_download_that_breaks_off_is_one_line(monkeypatch):
    def broken(*_, **__):
        raise http.client.IncompleteRead(b"", 10)

    monkeypatch.setattr(idx.urllib.request, "urlopen", broken)
    message = refused(read_idx, "http://nowhere", FILES["train"]["labels"])
    assert message.startswith("cannot download 'http://nowhere/")
    assert message.endswith("check the URL and the network")


def test_faults_of_the_papers_files_are_one_line(tmp_path):
    world = MassSpring(MassSpring.Parameters())
    rng, path = np.random.default_rng(0), tmp_path / "eval_spring.npz"
    np.savez(tmp_path / "spring_seed0.npz", **{n: rng.normal(size=(60, 2)) for n in ("x", "dx", "test_x", "test_dx")})
    good = {"t": np.linspace(0, 1, 3), "ref_B": np.zeros((2, 3, 2)), "ref_C": np.zeros((2, 3, 2))}
    np.savez(path, **good)
    assert set(read_paper_files(tmp_path, world)) == {"train", "validation", "B", "C"}
    path.write_bytes(b"")
    assert "eval_spring.npz' cannot be read (" in refused(read_paper_files, tmp_path, world)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "one array, no .npz" in refused(read_paper_files, tmp_path, world)
    np.savez(path, **good | {"t": np.array([0.0, np.nan, 1.0])})
    assert "eval_spring.npz', array 't': not all numbers are finite" in refused(read_paper_files, tmp_path, world)
    np.savez(path, **good | {"ref_B": np.zeros((2, 5, 2))})
    assert "files of 'spring' in" in refused(read_paper_files, tmp_path, world)

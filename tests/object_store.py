"""An S3-like object store on this machine, for as long as a test needs it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def object_store(bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """A server of `moto` with one bucket; yields the environment in which clients find it."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in found.items():
                patch.setenv(name, value)
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir(bucket)
            yield found
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()

"""A real S3 server (moto's) as a process of its own, and a proxy before it that fails when it is told to."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.extras import needs

_START_S = 60.0
_QUIET = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass(frozen=True)
class S3Server:
    """Server that is running at `address`."""

    address: str

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables with which a process talks to it, and to nobody else."""
        return s3_environment(self.address)

    def put(self, name: str, data: bytes, acl: str = "private") -> None:
        """Write an object; `name` begins with its bucket, which is made."""
        client = self._client()
        bucket, _, key = name.partition("/")
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=key, Body=data, ACL=acl)

    def put_folder(self, name: str, folder: Path) -> None:
        """Write all files below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def get(self, name: str) -> bytes:
        """Return the bytes of an object."""
        bucket, _, key = name.partition("/")
        data: bytes = self._client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def tag(self, name: str) -> str:
        """Return the ETag of an object."""
        bucket, _, key = name.partition("/")
        return str(self._client().head_object(Bucket=bucket, Key=key)["ETag"])

    def remove(self, name: str) -> None:
        """Remove an object."""
        bucket, _, key = name.partition("/")
        self._client().delete_object(Bucket=bucket, Key=key)

    def names(self, name: str) -> list[str]:
        """Return the names of all objects in a folder, from there on, sorted."""
        bucket, _, key = name.partition("/")
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/")
        return sorted(each["Key"].removeprefix(f"{key}/") for page in pages for each in page.get("Contents", ()))

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )


def s3_environment(address: str) -> Mapping[str, str]:
    """Return the variables with which a process talks to a server, and to nobody else."""
    return _QUIET | {"AWS_ENDPOINT_URL": address}


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server on loopback; skips the test where it is not installed."""
    needs("moto", "flask", "flask_cors", "s3fs")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | _QUIET,
    )
    try:
        _wait_for(port)
        yield S3Server(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return

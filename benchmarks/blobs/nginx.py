"""nginx as a blob service that can only be read: listing, ranges, ETags and Content-MD5 as Azure Blob Storage has them, at the speed of static files;
and as a proxy that makes another service late.

It answers `http://127.0.0.1:PORT/ACCOUNT/CONTAINER/...` and `http://ACCOUNT.blob.localhost:PORT/CONTAINER/...`, and takes any signature.
Needs nginx with the modules echo (for the delay) and headers-more (the vendor's clients ask for ranges by `x-ms-range`).
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from string import Template

from benchmarks.blobs.sample import ACCOUNT, CONTAINER, Sample

PACKAGES = "nginx-light libnginx-mod-http-headers-more-filter"
MODULES = ("ngx_http_echo_module.so", "ngx_http_headers_more_filter_module.so")
MODULES_FOLDER = Path("/usr/lib/nginx/modules")
DELAY = 0.03
LISTENING = range(20_000, 32_000)
CONFIG = Template("""
$modules
$user
pid $folder/nginx.pid;
error_log $folder/error.log;
worker_processes 2;
daemon off;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000;
  client_body_temp_path $folder/body;
  proxy_temp_path $folder/proxy;
  fastcgi_temp_path $folder/fastcgi;
  uwsgi_temp_path $folder/uwsgi;
  scgi_temp_path $folder/scgi;
  $content
}
""")
BLOBS = Template("""
  sendfile on;
  tcp_nopush on;
  default_type application/octet-stream;
  map_hash_max_size 16384;
  map_hash_bucket_size 128;
  map $$http_x_ms_range $$asked { "" $$http_range; default $$http_x_ms_range; }
  map $$arg_prefix $$listing { default all; ~^small small; ~^large large; }
  map $$blob $$md5 { include $folder/md5s; }
  map $$asked $$md5_of_all { "" $$md5; }
  map $$asked $$md5_beside { default $$md5; "" ""; }
  add_header x-ms-version 2021-12-02;
  add_header x-ms-request-id 00000000-0000-0000-0000-000000000000;
  $servers
""")
SERVER = Template("""
  server {
    listen 127.0.0.1:$port;
    error_page 404 = @missing;
    location @missing { add_header x-ms-error-code BlobNotFound; return 404; }
    location ~ ^/(?:$account/)?$container/?$$ {
      if ($$arg_comp != list) { return 200; }
      types { }
      default_type application/xml;
      root $folder/listings;
      rewrite ^ /$$listing.xml break;
    }
    location ~ ^/(?:$account/)?$container/(?<blob>(?:small|large)/f\\d+)$$ { $action }
    location @blob { $serve }
    location / { return 404; }
  }
""")
SERVE = Template("""
      more_set_input_headers "Range: $$asked";
      add_header Content-MD5 $$md5_of_all;
      add_header x-ms-blob-content-md5 $$md5_beside;
      add_header x-ms-blob-type BlockBlob;
      add_header x-ms-version 2021-12-02;
      root $files;
      rewrite ^ /$$blob break;
""")
LATE = Template("""
  client_max_body_size 0;
  upstream service { server 127.0.0.1:$port; keepalive 64; }
  server {
    listen 127.0.0.1:$late_port;
    location / { echo_sleep $delay; echo_exec @service; }
    location @service {
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $$http_host;
      proxy_request_buffering off;
      proxy_buffering off;
    }
  }
""")
BLOB = Template(
    "<Blob><Name>$name</Name><Properties><Creation-Time>$modified</Creation-Time><Last-Modified>$modified</Last-Modified><Etag>$etag</Etag>"
    "<Content-Length>$size</Content-Length><Content-Type>application/octet-stream</Content-Type><Content-Encoding /><Content-Language /><Content-CRC64 />"
    "<Content-MD5>$md5</Content-MD5><Cache-Control /><Content-Disposition /><BlobType>BlockBlob</BlobType><AccessTier>Hot</AccessTier>"
    "<AccessTierInferred>true</AccessTierInferred><LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
    "<ServerEncrypted>true</ServerEncrypted></Properties></Blob>"
)


@dataclass(frozen=True)
class BlobServer:
    """Where the same blobs answer at once (`port`), and each `DELAY` seconds late (`slow_port`)."""

    port: int
    slow_port: int


@contextmanager
def serving(sample: Sample, folder: Path) -> Iterator[BlobServer]:
    """nginx with the files of *sample*, its own files in *folder*. Raises SystemExit where it cannot be started."""
    folder.mkdir()
    server = BlobServer(free_port(), free_port())
    _write_listings(sample, folder / "listings")
    (folder / "md5s").write_text("".join(f'"{name}" "{md5}";\n' for name, md5 in sample.md5s.items()))
    with _running(_blobs(sample, folder, server), folder, server.port):
        yield server


@contextmanager
def late(port: int, late_port: int, folder: Path) -> Iterator[None]:
    """Hands each request to *late_port* on to *port* `DELAY` seconds late, bodies as they come. Raises SystemExit where nginx cannot be started."""
    folder.mkdir()
    with _running(LATE.substitute(port=port, late_port=late_port, delay=DELAY), folder, late_port):
        yield


@contextmanager
def _running(content: str, folder: Path, port: int) -> Iterator[None]:
    modules = [MODULES_FOLDER / name for name in MODULES if (MODULES_FOLDER / name).exists()]  # elsewhere they may be built in
    user = "user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""  # else its workers could not read our folder
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
    """What nginx says that it is: `1.22.1`."""
    said = subprocess.run([_nginx(), "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr
    return said.strip().rpartition("/")[2]


def _nginx() -> str:
    path = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if path is None:
        sys.exit(f"nginx is needed. On Debian: apt-get install {PACKAGES}")
    return path


def _blobs(sample: Sample, folder: Path, server: BlobServer) -> str:
    serve = SERVE.substitute(files=sample.folder)
    names = {"account": ACCOUNT, "container": CONTAINER, "folder": folder, "serve": serve}
    at_once = SERVER.substitute(names, port=server.port, action=serve)
    slow = SERVER.substitute(names, port=server.slow_port, action=f"echo_sleep {DELAY}; echo_exec @blob;")
    return BLOBS.substitute(folder=folder, servers=at_once + slow)


def _write_listings(sample: Sample, folder: Path) -> None:
    folder.mkdir(parents=True)
    for part in ("small", "large", "all"):
        names = [*sample.md5s] if part == "all" else sample.names(part)
        blobs = "".join(_described(sample, name) for name in sorted(names))
        text = f'<EnumerationResults ContainerName="{CONTAINER}"><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>'
        (folder / f"{part}.xml").write_text(f'<?xml version="1.0" encoding="utf-8"?>{text}')


def _described(sample: Sample, name: str) -> str:
    status = (sample.folder / name).stat()
    etag = f"&quot;{int(status.st_mtime):x}-{status.st_size:x}&quot;"  # as nginx makes them
    return BLOB.substitute(name=name, modified=formatdate(int(status.st_mtime), usegmt=True), etag=etag, size=status.st_size, md5=sample.md5s[name])


def free_port() -> int:
    """A port that nobody listens at, below those that systems give to outgoing connections: it stays free while a server is not yet, or no more, there."""
    while True:
        port = random.choice(LISTENING)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens. Raises SystemExit when the process ended before."""
    for _ in range(600):
        if process.poll() is not None:
            sys.exit(f"{process.args!r} ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"{process.args!r} does not listen on port {port}")

"""Other people's proxies, set up the way their manuals say, for comparison; installed only when asked for."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bench.canned_engine import PACES
from bench.processes import ServerError

PEERS: Final = ("nginx", "litellm", "vllm-router", "sglang-router")


class PeerCommand(msgspec.Struct, frozen=True):
    """How to start a peer."""

    command: list[str]
    env: dict[str, str] = {}


def peer_command(name: str, engine: str, port: int, scratch: Path) -> PeerCommand:
    """Prepare a peer; its files go to `scratch`. Raises ServerError where it cannot be installed."""
    makers: dict[str, Callable[[str, int, Path], PeerCommand]] = {
        "nginx": _nginx,
        "litellm": _litellm,
        "vllm-router": _vllm_router,
        "sglang-router": _sglang_router,
    }
    return makers[name](engine, port, scratch)


def _nginx(engine: str, port: int, scratch: Path) -> PeerCommand:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise ServerError("nginx is not installed: apt-get install nginx-light")
    config = scratch / "nginx.conf"
    config.write_text(
        f"""
daemon off; worker_processes 1; pid {scratch}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 64m; client_body_buffer_size 64m;
  client_body_temp_path {scratch}/body; proxy_temp_path {scratch}/proxy;
  fastcgi_temp_path {scratch}/fastcgi; uwsgi_temp_path {scratch}/uwsgi; scgi_temp_path {scratch}/scgi;
  upstream engine {{ server {engine.removeprefix("http://")}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""
    )
    return PeerCommand([binary, "-e", "stderr", "-p", str(scratch), "-c", str(config)])


def _litellm(engine: str, port: int, scratch: Path) -> PeerCommand:
    python = _environment("litellm", "litellm[proxy]")
    config = scratch / "litellm.json"
    # LiteLLM reads YAML, and JSON is YAML.
    config.write_text(
        json.dumps({"model_list": [_litellm_model(f"canned-{pace}", engine) for pace in PACES]})
    )
    command = [str(python.with_name("litellm")), "--config", str(config), "--num_workers", "1"]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # As open as the others, and only to this machine.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    return PeerCommand([*command, *_listen(port)], env)


def _litellm_model(name: str, engine: str) -> dict[str, object]:
    served = {"model": f"hosted_vllm/{name}", "api_base": f"{engine}/v1", "api_key": "none"}
    return {"model_name": name, "litellm_params": served}


def _vllm_router(engine: str, port: int, _: Path) -> PeerCommand:
    python = _environment("vllm-router", "vllm-router")
    return PeerCommand([str(python.with_name("vllm-router")), "--worker-urls", engine, *_listen(port)])


def _sglang_router(engine: str, port: int, _: Path) -> PeerCommand:
    python = _environment("sglang-router", "sglang-router")
    launch = [str(python), "-m", "sglang_router.launch_router", "--worker-urls", engine]
    return PeerCommand([*launch, *_listen(port)])


def _listen(port: int) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(port)]


def _environment(name: str, requirement: str) -> Path:
    """The Python of a virtual environment that holds `requirement`, kept in the user's cache between runs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = base / "headway-bench" / name
    python = home / "bin" / "python"
    complete = home / "complete"
    if not complete.exists():
        print(f"installing {requirement} into {home}", file=sys.stderr)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", requirement], check=True)
        except subprocess.CalledProcessError as error:
            raise ServerError(f"{name} could not be installed: {error}") from error
        complete.touch()
    return python

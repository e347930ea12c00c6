"""The configuration: one typed table, filled by `proxy/configuration.py`."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from predictor.live_order import FLOOR
from predictor.redis_address import RedisAddress
from proxy.class_settings import ClassSettings
from proxy.identity import KeySettings

ENV_PREFIX: Final = "HEADWAY_"
# Before a base URL: its host is a name whose addresses are the engines.
DNS: Final = "dns+"


class SettingsError(ValueError):
    """The configuration is wrong; the message names the key and the source."""


def default_state_dir() -> str:
    """Where Headway keeps its log and artifacts: `$XDG_STATE_HOME/headway`."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return str(Path(base) / "headway")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything `headway serve` can be told. The descriptions are the published table."""

    engine: Annotated[
        tuple[str, ...],
        Meta(
            description="Base URL of an engine; give it once per replica, or dns+http://NAME:PORT for all of a name."
        ),
    ]
    engine_kind: Annotated[
        Literal["auto", "vllm", "sglang", "generic"],
        Meta(description="The engine's kind; auto asks the engine."),
    ] = "auto"
    host: Annotated[str, Meta(description="Address that clients connect to.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port that clients connect to; 0: any free.")] = (
        8080
    )
    admin_host: Annotated[str, Meta(description="Address of the admin port.")] = "127.0.0.1"
    admin_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        Meta(description="Port of full /metrics and status; 0: any free, absent: off."),
    ] = None
    state: Annotated[
        str,
        Meta(
            description="Directory of artifacts, traffic log and history.db: lengths by tenant and model, and by "
            "unsalted 64-bit hashes of prompt, system prompt and first four words. No text, but pseudonymous: "
            "whoever has the file can test guesses. With `redis` the hashes are there instead."
        ),
    ] = msgspec.field(default_factory=default_state_dir)
    redis: Annotated[
        str | None,
        Meta(
            description="What proxies share: redis://:PASSWORD@HOST:6379/0, or rediss:// for TLS; "
            "absent: nothing. Better not as a flag, which others on the machine can read."
        ),
    ] = None
    redis_password: Annotated[
        str | None,
        Meta(description="Redis's password, as it is; for the environment, where its URL is no secret."),
    ] = None
    redis_password_file: Annotated[
        str | None, Meta(description="File with Redis's password, read at every connection.")
    ] = None
    redis_ca_file: Annotated[
        str | None, Meta(description="Certificates that Redis's TLS is held against; absent: the system's.")
    ] = None
    redis_rows: Annotated[
        int,
        Meta(
            ge=1,
            description="Rows of the traffic log in Redis, of all proxies: about 2 kB each, with `text_mode` "
            "`hashed` or `full` as much more as their prompts are long.",
        ),
    ] = 200_000
    traffic_log: Annotated[bool, Meta(description="Write the traffic log, and history.db beside it.")] = True
    text_mode: Annotated[
        Literal["none", "hashed", "full"],
        Meta(
            description="What the traffic log keeps of prompts: `none`: numbers only, which cannot be turned "
            "back into text (history.db holds hashes all the same, see `state`); `hashed`: hashes of words "
            "and word pairs too, which lets a retrained ranker learn your words, but whoever gets the file can "
            "test guesses (is this word, this sentence in it?); `full`: the whole prompts, readable by whoever "
            "can read the file."
        ),
    ] = "none"
    traffic_log_days: Annotated[float, Meta(gt=0, description="Days a row of the log is kept.")] = 30.0
    traffic_log_rows: Annotated[int, Meta(ge=1, description="Rows the log keeps; the oldest go.")] = 2_000_000
    traffic_log_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            description="Bytes the log's file keeps, about 2 kB a row or more; the oldest rows go.",
        ),
    ] = 2 << 30

    mode: Annotated[
        Literal["engine", "hold", "hybrid"],
        Meta(
            description="Who orders: the engine's queue, the proxy's, or the proxy's beyond a window "
            "and the engine's within it."
        ),
    ] = "hybrid"
    policy: Annotated[
        Literal["auto", "fcfs", "quantile", "work", "sjf"],
        Meta(
            description="The order. auto: what replay chose for the artifact's traffic, else quantile; work: by "
            "predicted engine time, prompt included, where the artifact knows it; sjf: shortest first without a "
            "bound, not with mode engine."
        ),
    ] = "auto"
    max_overtake: Annotated[
        Annotated[float, Meta(ge=0, le=86_400)] | None,
        Meta(
            description="D: seconds by which a later request may pass an earlier one; absent: what replay chose "
            "for the artifact's traffic, else 120."
        ),
    ] = None
    window: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Requests at one engine at once (hold and hybrid); absent: as few as keep it busy."),
    ] = None
    self_prediction: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="Ask the engine's model, while a request waits, what its answer would begin with; auto: "
            "at a third of the share until the ranker in service has learned to use it."
        ),
    ] = "auto"
    self_prediction_share: Annotated[
        float, Meta(gt=0, le=0.5, description="Share of an engine's slot time that these questions may take.")
    ] = 0.03
    self_prediction_deadline_s: Annotated[
        Annotated[float, Meta(gt=0, le=60)] | None,
        Meta(
            description="Seconds after which an answer to them is not waited for; absent: three times what the "
            "engine's lately took, 0.25 to 5."
        ),
    ] = None
    lane_share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="Share of dispatches that go to the oldest waiter; absent: what replay chose for the "
            "artifact's traffic, else 0."
        ),
    ] = None
    retrain: Annotated[
        Literal["auto", "off"],
        Meta(description="auto: run `headway retrain` beside serving where the traffic log is our own."),
    ] = "auto"
    retrain_rows: Annotated[
        int, Meta(ge=1, description="New requests in the log that start a retraining.")
    ] = 2_000
    retrain_every_s: Annotated[
        float, Meta(gt=0, description="Seconds after which fewer new requests do so too.")
    ] = 21_600.0
    accuracy_floor: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Share of request pairs that the ranker must put in the right order (0.5: chance); "
            "proved to be below it, the order is first come, first served until proved otherwise. 0: never.",
        ),
    ] = FLOOR
    default_class: Annotated[str, Meta(description="Class of requests whose key names none.")] = "standard"
    classes: Annotated[
        tuple[ClassSettings, ...],
        Meta(description="The classes; absent: interactive, standard, batch. Only in the file: [[classes]]."),
    ] = ()
    keys: Annotated[
        tuple[KeySettings, ...],
        Meta(description="Who may ask, as which tenant; absent: anybody. Only in the file: [[keys]]."),
    ] = ()
    trust_headers: Annotated[
        bool, Meta(description="Believe x-headway-tenant (only behind a gateway that sets it).")
    ] = False

    max_waiting: Annotated[int, Meta(ge=1, description="Requests that may wait; beyond it 429.")] = 10_000
    max_waiting_bytes: Annotated[int, Meta(ge=1, description="Body bytes that may wait; beyond it 429.")] = (
        1 << 30
    )
    max_waiting_tokens: Annotated[
        float, Meta(gt=0, description="Predicted tokens that may wait; beyond it 429.")
    ] = 1e9
    shed_worst: Annotated[
        bool, Meta(description="When full, refuse the worst waiter of the lowest class, not the newcomer.")
    ] = False

    max_body_bytes: Annotated[int, Meta(ge=1, description="Longest request body.")] = 64 << 20
    max_header_bytes: Annotated[int, Meta(ge=512, description="Longest header line.")] = 32_768
    body_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds a client may take to send its body.")
    ] = 60.0
    client_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds a client may take nothing of its answer before it is cut off.")
    ] = 60.0
    hold_keepalive_s: Annotated[
        Annotated[float, Meta(ge=0.1)] | None,
        Meta(
            description="Seconds of waiting after which a stream opens with a comment, and gets one again; a later "
            "refusal is its last event, not a status. Absent: never."
        ),
    ] = None
    connect_timeout_s: Annotated[float, Meta(gt=0, description="Seconds to connect to an engine.")] = 5.0
    engine_timeout_s: Annotated[
        float, Meta(gt=0, description="Seconds an engine may be silent, before or within an answer.")
    ] = 3600.0
    engine_wait_s: Annotated[
        float, Meta(ge=0, description="Seconds requests wait when no engine is there, before 503.")
    ] = 5.0
    keepalive_s: Annotated[
        float, Meta(gt=0, description="Seconds an idle connection from a client is kept open.")
    ] = 75.0
    engine_keepalive_s: Annotated[
        float,
        Meta(gt=0, description="Seconds an idle connection to an engine is reused (vLLM closes after 5)."),
    ] = 3.0
    drain_s: Annotated[float, Meta(ge=0, description="Seconds that SIGTERM leaves running requests.")] = 600.0
    engine_api_key_file: Annotated[
        str | None, Meta(description="File with the engine's key; absent: the client's key is passed on.")
    ] = None
    engine_ca_file: Annotated[
        str | None,
        Meta(description="Certificates that an engine's TLS is held against; absent: the system's."),
    ] = None
    otel_endpoint: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^/?#@:\s][^/?#@\s]*(/[^?#@\s]*)?$")] | None,
        Meta(
            description="Base URL of an OTLP/HTTP collector, which gets a span per scheduled request (needs "
            "headway[otel]); the OTEL_* environment variables say the rest; absent: no tracing."
        ),
    ] = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Log level.")] = (
        "info"
    )

    def read_api_key(self) -> str | None:
        """The engine's key, or None where there is no file of it. Raises SettingsError where it cannot be read."""
        if self.engine_api_key_file is None:
            return None
        try:
            return Path(self.engine_api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"engine_api_key_file: {error}") from error

    @property
    def policies(self) -> frozenset[str]:
        """The general order, and those of classes that have their own."""
        return frozenset({self.policy, *(one.policy for one in self.classes if one.policy)})

    def redis_address(self) -> RedisAddress | None:
        """Where Redis is; None where nothing is shared. Raises SettingsError, which never quotes the URL."""
        if self.redis is None:
            return None
        try:
            return RedisAddress(
                self.redis,
                password=self.redis_password,
                password_file=self.redis_password_file,
                ca_file=self.redis_ca_file,
            )
        except ValueError as error:
            raise SettingsError(f"redis: {error}") from error

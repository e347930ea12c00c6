"""`python -m training.emulator --port 8000 --profile demo --scheduling-policy priority`"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from training.emulator.engine import EmulatedEngine
from training.emulator.inference import EmulatorConfig
from training.engine import SchedulingPolicy
from training.lengths import LengthTable
from training.profiles import PROFILES, profile_named


def main() -> int:
    """Serve until SIGTERM or SIGINT; 2 where the arguments make no engine."""
    args = _parser().parse_args()
    try:
        engine = EmulatedEngine(_config(args), LengthTable.load(args.lengths, args.seed))
        uvloop.run(_serve(engine))
    except (OSError, ValueError) as error:
        print(f"emulator: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="training.emulator", description="An emulated vLLM server.")
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000)
    add(
        "--profile",
        choices=sorted(PROFILES),
        default="demo",
        help="how fast the engine is, how much it holds",
    )
    add("--served-model-name", default="emulated")
    add("--scheduling-policy", choices=[policy.value for policy in SchedulingPolicy], default="fcfs")
    add("--max-num-seqs", type=int, help="slots; the profile's number unless given")
    add("--max-num-queued-reqs", type=int, help="refuse (503) when so many wait or run")
    add("--num-gpu-blocks-override", type=int, help="KV blocks; the profile's number unless given")
    add("--no-enable-prefix-caching", action="store_true", help="reuse no prompt")
    add("--api-key", help="the key that /v1 wants")
    add("--seed", type=int, default=0)
    add("--lengths", type=Path, help="lengths.jsonl of training.record_lengths; the shipped one unless given")
    add("--keep-alive", type=float, default=5.0, metavar="S", help="close an idle connection after S seconds")
    add("--metrics-stale", type=float, default=0.0, metavar="S", help="show /metrics up to S seconds old")
    add("--no-prompt-tokens-details", action="store_true", help="leave cached_tokens out of usage")
    add("--no-per-request-metrics", action="store_true", help="leave `metrics` out of answers")
    add("--allow-faults", action="store_true", help="open POST /emulator/faults")
    return parser


def _config(args: argparse.Namespace) -> EmulatorConfig:
    profile = profile_named(args.profile)
    overrides = {"max_num_seqs": args.max_num_seqs, "num_blocks": args.num_gpu_blocks_override}
    given = {name: value for name, value in overrides.items() if value is not None}
    return EmulatorConfig(
        profile=msgspec.structs.replace(profile, **given),
        served_model_name=args.served_model_name,
        scheduling_policy=SchedulingPolicy(args.scheduling_policy),
        max_num_queued_reqs=args.max_num_queued_reqs,
        enable_prefix_caching=not args.no_enable_prefix_caching,
        api_key=args.api_key,
        enable_prompt_tokens_details=not args.no_prompt_tokens_details,
        enable_per_request_metrics=not args.no_per_request_metrics,
        seed=args.seed,
        host=args.host,
        port=args.port,
        keep_alive_s=args.keep_alive,
        metrics_stale_s=args.metrics_stale,
        allow_faults=args.allow_faults,
    )


async def _serve(engine: EmulatedEngine) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with engine:
        print(f"emulated engine ({engine.config.profile.name}) on {engine.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())

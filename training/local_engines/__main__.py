"""`python -m training.local_engines prepare|serve vllm|sglang`: install an engine, or serve it from a terminal."""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from training.local_engines.engines import ENGINES
from training.local_engines.errors import LocalEngineError
from training.local_engines.install import Install, prepare_engine, prepare_model
from training.local_engines.process import Launch, serving


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 with one clear message, or the engine's own."""
    options = _parser().parse_args(arguments)
    try:
        install, model = _prepare(options.engine)
        if options.action == "prepare":
            print(f"{install.engine.name} {install.engine.version}: {install.root}\nmodel: {model}")
            return 0
        return _serve(options, install, model)
    except LocalEngineError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.local_engines", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    prepare = actions.add_parser("prepare", help="install the engine and the model into the cache")
    serve = actions.add_parser("serve", help="serve until interrupted")
    for action in (prepare, serve):
        action.add_argument("engine", choices=sorted(ENGINES))
    serve.add_argument("--port", type=int, default=0, help="default: a free one")
    serve.add_argument(
        "--extra-path", type=Path, help="goes on the engine's PYTHONPATH (SGLang's sgl_kernel)"
    )
    serve.add_argument("--fcfs", action="store_true", help="leave out the flags that make priorities count")
    serve.add_argument("flags", nargs="*", metavar="-- FLAG", help="further flags of the engine; they win")
    return parser


def _prepare(engine: str) -> tuple[Install, Path]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(engine, total=1.0)

        def report(text: str, done: float) -> None:
            progress.update(bar, description=text, completed=done)

        install = prepare_engine(ENGINES[engine], report)
        return install, prepare_model(report, converter=install)


def _serve(options: argparse.Namespace, install: Install, model: Path) -> int:
    # A terminated command still stops its engine.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    engine = install.engine
    flags = engine.report_flags if options.fcfs else engine.default_flags
    launch = Launch(
        install, model, flags=(*flags, *options.flags), extra_path=options.extra_path, port=options.port
    )
    print(f"{engine.name} {engine.version} is starting", file=sys.stderr)
    with serving(launch) as running:
        print(
            f"{running.base_url} (model {running.model}, pid {running.pid}, log {running.log_path})",
            flush=True,
        )
        return running.wait()


if __name__ == "__main__":
    sys.exit(main())

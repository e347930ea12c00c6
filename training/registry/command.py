"""`headway models`: what is in the registry, publishing by hand, and going back."""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from predictor.artifact import METADATA, Metadata, load_artifact, read_metadata
from predictor.errors import PredictorError
from predictor.registry import Role, artifact_directory, checked_id, read_pointer
from predictor.trial import try_artifact
from training.registry.journal import BusyError, Decision, Outcome, read_decisions
from training.registry.place import add_place
from training.registry.shared import Place, place_of, shared
from training.registry.store import adopt, end_shadow, publish, roll_back, stored
from training.retrain.cycle import Plan, weigh_by_hand
from training.sources import DataError

_WIDTH: Final = 130
_SHOWN: Final = 10


class Model(msgspec.Struct, frozen=True):
    """One artifact of the registry. `tau_b` and `decision` are of the last time that somebody weighed it."""

    id: str
    roles: list[str]
    name: str
    created: str
    trained_on: int | None
    tau_b: float | None
    order: str
    decision: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `headway models`."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="artifacts, who serves, and the latest decisions")
    publishing = verbs.add_parser("publish", help="let an artifact serve, if it is better on the traffic log")
    publishing.add_argument("artifact", metavar="ID|DIR", help="an id of the registry, or a directory")
    publishing.add_argument("--shadow", action="store_true", help="let it only be watched")
    publishing.add_argument("--force", action="store_true", help="without asking the gate")
    back = verbs.add_parser("rollback", help="let the champion before this one serve again")
    back.add_argument("target", nargs="?", metavar="ID|default", help="or this one; default: the wheel's")
    back.add_argument("--shadow", action="store_true", help="end the shadow; the champion stays")
    for sub in (listing, publishing, back):
        add_place(sub)
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Do it and report; one line on stderr where it cannot be done, and 1 also where the gate stays shut."""
    try:
        place = place_of(args)
        args.state = place.state
        # What is named may be in nobody's directory yet.
        named = getattr(args, "artifact", None) or getattr(args, "target", None)
        with shared(place, *([named] if named else [])):
            if args.verb == "list":
                return _list(args)
            decision = _publish(args, place) if args.verb == "publish" else _roll_back(args)
    except (DataError, PredictorError, BusyError, ValueError) as error:
        print(f"headway models: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except OSError as error:
        print(f"headway models: {error.filename or args.state}: {error.strerror or error}", file=sys.stderr)
        return 1
    if args.json:
        print(msgspec.json.encode({"decision": decision}).decode())
    else:
        print(f"{decision.outcome.value}: {decision.artifact or 'the default'} ({decision.reason})")
    return 1 if decision.outcome is Outcome.REFUSED else 0


def _publish(args: argparse.Namespace, place: Place) -> Decision:
    """Take it into the registry, weigh it unless told not to, and point at it."""
    known = Path(args.artifact)
    artifact_id = adopt(args.state, known) if known.is_dir() else checked_id(args.artifact)
    directory = artifact_directory(args.state, artifact_id)
    if not known.is_dir():
        try_artifact(directory)
    champion = read_pointer(args.state, Role.CHAMPION)
    if champion == artifact_id:
        raise PredictorError(f"{artifact_id} is the champion already")
    outcome = Outcome.SHADOWED if args.shadow else Outcome.PUBLISHED
    decision = Decision(action="publish", outcome=outcome, reason="asked for by an operator")
    if not args.force and not args.shadow:
        plan = Plan(state=args.state, source=place.source)
        decision = weigh_by_hand(plan, load_artifact(directory))
    decision = msgspec.structs.replace(decision, artifact=artifact_id, replaced=champion)
    return publish(args.state, decision, expected=champion)


def _roll_back(args: argparse.Namespace) -> Decision:
    if not args.shadow:
        return roll_back(args.state, args.target)
    if args.target is not None:
        raise ValueError("rollback --shadow ends the shadow, and takes no id")
    return end_shadow(args.state)


def _list(args: argparse.Namespace) -> int:
    decisions = read_decisions(args.state)
    roles = {role: read_pointer(args.state, role) for role in Role}
    models = [_model(args.state, one, roles, decisions) for one in stored(args.state)]
    if args.json:
        document: dict[str, Any] = {
            "champion": roles[Role.CHAMPION],
            "shadow": roles[Role.SHADOW],
            "models": models,
            "decisions": decisions,
        }
        print(msgspec.json.encode(document).decode())
        return 0
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(_models_table(models))
    if roles[Role.CHAMPION] is None:
        console.print("The ranker that comes with Headway serves.")
    if decisions:
        console.print(_decisions_table(decisions[-_SHOWN:]))
    return 0


def _model(state: Path, artifact_id: str, roles: dict[Role, str | None], decisions: list[Decision]) -> Model:
    weighed = [one for one in decisions if one.artifact == artifact_id]
    last = weighed[-1] if weighed else None
    figures = next((one.figures for one in reversed(weighed) if one.figures), None)
    metadata = _metadata(artifact_directory(state, artifact_id))
    order = metadata.order if metadata else None
    return Model(
        id=artifact_id,
        roles=[role.value for role, held in roles.items() if held == artifact_id],
        name=metadata.name if metadata else f"its {METADATA} cannot be read",
        created=metadata.created if metadata else "",
        trained_on=metadata.training.get("rows") if metadata else None,
        tau_b=figures.tau_b if figures else None,
        order=f"{order.policy}, D {order.max_overtake_s:g} s, lane {order.lane_share:g}" if order else "",
        decision=last.outcome.value if last else "",
    )


def _metadata(directory: Path) -> Metadata | None:
    try:
        return read_metadata(directory)
    except PredictorError:
        return None


def _models_table(models: list[Model]) -> Table:
    table = Table(title="Artifacts", title_justify="left")
    for column in ("id", "role", "created", "rows", "tau-b", "order", "decision"):
        table.add_column(column, no_wrap=True)
    for one in models:
        tau = "" if one.tau_b is None else f"{one.tau_b:.3f}"
        rows = "" if one.trained_on is None else str(one.trained_on)
        table.add_row(one.id, ", ".join(one.roles), one.created, rows, tau, one.order, one.decision)
    return table


def _decisions_table(decisions: list[Decision]) -> Table:
    table = Table(title="Decisions", title_justify="left")
    for column in ("at", "action", "outcome", "artifact", "why"):
        table.add_column(column, no_wrap=column != "why")
    for one in decisions:
        table.add_row(one.at, one.action, one.outcome.value, one.artifact or "default", one.reason)
    return table

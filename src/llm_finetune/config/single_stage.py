"""The settings of a job that does one stage alone, on the model that an earlier job has left."""

from __future__ import annotations

from llm_finetune.config.loader import from_values
from llm_finetune.config.schema import Settings

SWITCHES = {
    "train": "doTrain",
    "evaluate": "doEval",
    "quantize": "doQuantize",
    "benchmark": "doBenchmark",
}


def only(stage: str, settings: Settings) -> Settings:
    """The same settings for that stage alone; its model is the one in train.outputDir.

    Args:
        stage: evaluate, quantize or benchmark.

    Raises:
        SettingsError: they cannot be settings of that stage.
    """
    tree = settings.to_values()
    for name, switch in SWITCHES.items():
        tree[switch] = name == stage
    # What happens while a model is trained; without a training these would be refused.
    tree["eval"] |= {"strategy": "no", "loadBestModel": False, "earlyStoppingPatience": 0}
    tree["quantize"]["peftModelDir"] = settings.train.output_dir
    return from_values(tree)

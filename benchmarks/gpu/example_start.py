"""The model that the packaged example starts from, for machines that cannot make it: `example-start.safetensors`.

    python -m benchmarks.gpu.example_start    # half an hour on one core

The example ships records and no weights. Its starting model is pretrained on the standard library of the Python that
made it, so that another Python makes another model, and another tokenizer. Here are its weights as float16. They were
made again by the example's recipe under Python 3.11.7, as the example's manifests have it; before rounding, the losses
of all 57,048 tokens were the example's own within 0.0008 nats, root mean square 0.00007.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.trainings import qwen3
from dynamics.recipe.loading import load_recipe
from dynamics.recipe.studies import StudyRecipe
from dynamics.reporting import Reporter
from dynamics.training.pretraining import prepare_recipe

FILE = Path(__file__).with_name("example-start.safetensors")
RECIPE = Path(__file__).parents[2] / "recipes" / "example.yaml"


def starting_model() -> Any:
    """Return the model, with float32 weights, on the CPU."""
    weights = {name: value.float() for name, value in load_file(FILE).items()}
    model = qwen3("nano", len(weights["model.embed_tokens.weight"]))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)  # tied to the embedding
    return model


def main() -> None:
    recipe = load_recipe(str(RECIPE))
    assert isinstance(recipe, StudyRecipe)
    model = prepare_recipe(recipe.plan()[0].recipe, Reporter()).load_model()
    weights = {
        name: value.half().contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"
    }
    save_file(weights, FILE)
    print(FILE)


if __name__ == "__main__":
    main()

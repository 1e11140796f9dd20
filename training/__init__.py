"""From a recipe and your own text to a run folder: tokenizer, checkpoints, curves, scores."""

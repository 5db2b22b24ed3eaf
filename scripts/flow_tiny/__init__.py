"""Scripts that make flow-tiny: tokenizer, model, training data, training, evaluation, export."""

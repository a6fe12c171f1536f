"""From images to codes and back: LlamaGen's VQ model, its training, its checkpoints."""

"""Training a network: models, losses, optimizers, augmentation, the loop and its checkpoints."""

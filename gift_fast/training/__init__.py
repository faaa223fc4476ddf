"""Training a network: models, losses, optimizers, augmentation, the loop and its checkpoints.

It exports no names. Configurations select functions by their names in the registries ``MODELS``,
``OBJECTIVES``, ``OPTIMIZERS``, ``SCHEDULES``, ``AUGMENTATIONS`` and ``MIXINGS``, or by import path.
"""

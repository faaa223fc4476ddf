"""The GIFT loss: ``gift_loss``, ``GIFTLoss``, and the kernels that compute it.

:mod:`~gift_fast.loss.reference` is the reference implementation in plain PyTorch. Importing this
package registers the operators ``torch.ops.gift_fast.*``, which exported programs need.
"""

from gift_fast.loss.functional import gift_loss, refine_labels
from gift_fast.loss.module import GIFTLoss
from gift_fast.loss.operators import backends
from gift_fast.loss.top_k_labels import TopKLabels

__all__ = ["GIFTLoss", "TopKLabels", "backends", "gift_loss", "refine_labels"]

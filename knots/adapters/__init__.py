"""PEFT folder or hub id -> Adapter, and back.

`load_adapter` reads plain LoRA, whose updates are B @ A, and refuses every variant that is not;
`save_adapter` writes a folder that any PEFT program loads.
"""

from knots.adapters.adapter import Adapter, content_fingerprint
from knots.adapters.loading import is_zero_update, load_adapter
from knots.adapters.saving import save_adapter

__all__ = ["Adapter", "content_fingerprint", "is_zero_update", "load_adapter", "save_adapter"]

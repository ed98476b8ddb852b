"""Fine-tune the vision tower of a CLIP, one task at a time: LoRA adapters or all weights.

The protocol is the reference's: text heads frozen, AdamW, warm-up and cosine, stopping by the accuracy on
the validation split, and every task's training starting from the same random A and the same seed.
"""

from knots.finetuning.card import Origin
from knots.finetuning.plan import FinetuningPlan, parse_plan
from knots.finetuning.run import finetune, finetune_tasks

__all__ = ["FinetuningPlan", "Origin", "finetune", "finetune_tasks", "parse_plan"]

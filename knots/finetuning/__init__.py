"""Fine-tune a model: LoRA adapters, all weights of a CLIP's vision tower, or a head.

One task at a time, or one adapter on several tasks jointly.

The protocol is the reference's. Every task's training starts from the same seed: from the same random A, and
for decoders from the same head. AdamW, a warm-up and a schedule; the accuracy on the validation split decides
which step is kept and when to stop. A CLIP learns against the frozen heads of its text tower, a decoder
together with a head of the task's own.
"""

from knots.finetuning.card import Origin
from knots.finetuning.plan import FinetuningPlan, LanguagePlan, VisionPlan, parse_plan
from knots.finetuning.run import finetune, finetune_jointly, finetune_tasks

__all__ = [
    "FinetuningPlan",
    "LanguagePlan",
    "Origin",
    "VisionPlan",
    "finetune",
    "finetune_jointly",
    "finetune_tasks",
    "parse_plan",
]

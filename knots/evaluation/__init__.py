"""Evaluation of a merge and of what it is compared with, per task and over all tasks' classes jointly."""

from knots.evaluation.predictors import (
    Ensemble,
    Finetuned,
    Merged,
    Multitask,
    Predictor,
    Router,
    Single,
    ZeroShot,
)
from knots.evaluation.results import EvaluationResult, JointResult, Speed
from knots.evaluation.run import MODES, PROTOCOLS, check_protocol, evaluate, own_mode
from knots.evaluation.summary import summarize

__all__ = [
    "MODES",
    "PROTOCOLS",
    "Ensemble",
    "EvaluationResult",
    "Finetuned",
    "JointResult",
    "Merged",
    "Multitask",
    "Predictor",
    "Router",
    "Single",
    "Speed",
    "ZeroShot",
    "check_protocol",
    "evaluate",
    "own_mode",
    "summarize",
]

"""Merge LoRA adapters in a shared basis (KnOTS, arXiv 2410.19735), and measure the merged model.

adapters = [knots.load_adapter(folder) for folder in folders]
merged = knots.merge(adapters, **knots.METHODS["knots_ties"], scale=0.6, density=0.2)
knots.save_adapter(merged, "merged")
"""

from knots.adapters import Adapter, load_adapter, save_adapter
from knots.errors import KnotsError
from knots.merging import METHODS, Method, Prepared, merge
from knots.updates import Dense, LowRank, Update

__all__ = [
    "METHODS",
    "Adapter",
    "Dense",
    "KnotsError",
    "LowRank",
    "Method",
    "Prepared",
    "Update",
    "load_adapter",
    "merge",
    "save_adapter",
]

"""The claims card: run what is missing, measure every claim, and say what the intervals leave of it."""

from __future__ import annotations

from rich.console import Console

from knots.pipelines.reproduce.claims.evidence import gather
from knots.pipelines.reproduce.claims.plan import ClaimsPlan
from knots.pipelines.reproduce.claims.views import card, forest_picture, methods_sheet, ranking_sheet
from knots.pipelines.reproduce.experiment import Product


def run_claims(plan: ClaimsPlan, console: Console) -> Product:
    """Run what is missing and write the card; a claim whose runs are not there says so."""
    product = Product()
    evidence = gather(plan, console, product)
    sheet = card(plan, evidence)
    product.sheets.append(sheet)
    if evidence.averages is not None:
        product.sheets.append(ranking_sheet(plan, evidence))
        product.sheets.append(methods_sheet(plan, evidence))
        product.pictures["claims"] = forest_picture(plan, sheet)
    return product

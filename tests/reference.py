"""Slow, plain merges to compare with: dense matrices, full sorts, loops. Shares no code with `knots`."""

import torch
from torch import Tensor

Matrices = dict[str, Tensor]  # module -> [O, I] or coordinates


def ties(tasks: list[Matrices], density: float, reduce: str, trim: str) -> Matrices:
    modules = list(tasks[0])
    trimmed = []
    for task in tasks:
        pools = [modules] if trim == "model" else [[m] for m in modules]
        kept: Matrices = {}
        for pool in pools:
            magnitudes = torch.cat([task[m].abs().flatten() for m in pool]).sort().values
            count = len(magnitudes) - int(len(magnitudes) * density)
            limit = magnitudes[count - 1] if count > 0 else magnitudes.new_zeros(())
            kept |= {m: torch.where(task[m].abs() >= limit, task[m], torch.zeros(())) for m in pool}
        trimmed.append(kept)
    return {m: _merge([task[m] for task in trimmed], reduce) for m in modules}


def _merge(parts: list[Tensor], reduce: str) -> Tensor:
    out = torch.zeros_like(parts[0])
    for index in range(out.numel()):
        values = [float(p.flatten()[index]) for p in parts]
        total = sum(values)
        agreeing = [v for v in values if v * total > 0]
        if agreeing:
            out.view(-1)[index] = sum(agreeing) / (len(agreeing) if reduce == "mean" else 1)
    return out


def knots_ties(tasks: list[Matrices], density: float, reduce: str = "mean", rows: bool = False) -> Matrices:
    """The published algorithm: one dense SVD a module, TIES on S V_i', mapped back by U."""
    if rows:
        flipped = knots_ties([{m: w.T.contiguous() for m, w in t.items()} for t in tasks], density, reduce)
        return {m: w.T.contiguous() for m, w in flipped.items()}
    bases: Matrices = {}
    coords: list[Matrices] = [{} for _ in tasks]
    for module in tasks[0]:
        joined = torch.cat([t[module].double() for t in tasks], dim=1)
        u, s, vt = torch.linalg.svd(joined, full_matrices=False)
        kept = s > 1e-5
        bases[module] = u[:, kept].float()
        for task, part in zip(coords, (s[kept, None] * vt[kept]).chunk(len(tasks), dim=1), strict=True):
            task[module] = part.float()
    return {m: bases[m] @ merged for m, merged in ties(coords, density, reduce, "model").items()}

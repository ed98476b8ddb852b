"""Slow, plain merges to compare with: dense matrices, full sorts, loops. Shares no code with `knots`."""

import torch
from torch import Tensor

Matrices = dict[str, Tensor]  # module -> [O, I] or coordinates


def ties(tasks: list[Matrices], density: float, reduce: str, trim: str) -> Matrices:
    trimmed = trim_all(tasks, density, trim)
    return {m: _merge([task[m] for task in trimmed], reduce) for m in tasks[0]}


def trim_all(tasks: list[Matrices], density: float, trim: str) -> list[Matrices]:
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
    return trimmed


def _merge(parts: list[Tensor], reduce: str, by_count: bool = False) -> Tensor:
    out = torch.zeros_like(parts[0])
    for index in range(out.numel()):
        values = [float(p.flatten()[index]) for p in parts]
        total = sum(values)
        votes = sum((v > 0) - (v < 0) for v in values)
        if by_count and votes != 0:
            total = votes
        agreeing = [v for v in values if v * total > 0]
        if agreeing:
            out.view(-1)[index] = sum(agreeing) / (len(agreeing) if reduce == "mean" else 1)
    return out


def knots_ties(tasks: list[Matrices], density: float, reduce: str = "mean", rows: bool = False) -> Matrices:
    """The published algorithm: one dense SVD a module, TIES on S V_i', mapped back by U."""
    if rows:
        flipped = knots_ties([{m: w.T.contiguous() for m, w in t.items()} for t in tasks], density, reduce)
        return {m: w.T.contiguous() for m, w in flipped.items()}
    bases, scales, coords = _joint_svd(tasks)
    for module in bases:
        for task in coords:
            task[module] = scales[module][:, None] * task[module]
    return {m: bases[m] @ merged for m, merged in ties(coords, density, reduce, "model").items()}


def _joint_svd(tasks: list[Matrices]) -> tuple[Matrices, Matrices, list[Matrices]]:
    """U, S and every task's V_i' by module, of a dense SVD."""
    bases: Matrices = {}
    scales: Matrices = {}
    coords: list[Matrices] = [{} for _ in tasks]
    for module in tasks[0]:
        joined = torch.cat([t[module].double() for t in tasks], dim=1)
        u, s, vt = torch.linalg.svd(joined, full_matrices=False)
        kept = s > 1e-5
        bases[module], scales[module] = u[:, kept].float(), s[kept].float()
        for task, part in zip(coords, vt[kept].chunk(len(tasks), dim=1), strict=True):
            task[module] = part.float()
    return bases, scales, coords


def core_spaces_knots_ties(tasks: list[Matrices], density: float) -> Matrices:
    """arXiv 2509.17786: TIES on V_i', a module at a time; S comes back after the merge."""
    bases, scales, coords = _joint_svd(tasks)
    merged = ties(coords, density, "mean", "module")
    return {m: bases[m] @ torch.diag(scales[m]) @ merged[m] for m in merged}


def taras_ties(tasks: list[Matrices], density: float, drop: float, seed: int, knots: bool) -> Matrices:
    """arXiv 2603.26299: trim a module at a time, drop, elect by count; a tie goes by the sum.

    The masks are one stream, tasks outer, a random matrix thrown away before each: the KnOTS code's.
    """
    bases, scales, coords = _joint_svd(tasks)
    scaled = [{m: scales[m][:, None] * task[m] for m in task} for task in coords]
    trimmed = trim_all(scaled if knots else tasks, density, "module")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for task in trimmed if drop else ():
            for module in sorted(task, key=lambda name: f"{name}.weight"):
                torch.randint(2, task[module].shape)
                kept = torch.empty(task[module].shape).bernoulli_(1 - drop)
                task[module] = task[module] * kept / (1 - drop)
    merged = {m: _merge([task[m] for task in trimmed], "mean", by_count=True) for m in tasks[0]}
    return {m: bases[m] @ w if knots else w for m, w in merged.items()}

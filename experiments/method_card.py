"""Say what a merging rule does, by trying it on other orders, factors, sizes and lists; and what it costs.

uv run experiments/method_card.py rule=ties                    TIES in the space knots, on the miniature
uv run experiments/method_card.py rule=tsv space=core          another rule, another space
uv run experiments/method_card.py merge=knots_ties_unscaled    a named method
uv run experiments/method_card.py rule=mine.py:my_rule         a rule of your own: a function of coordinates
uv run experiments/method_card.py merge=dare_ties output=card  keep it in a folder

`rule=` and `space=` are short for `merge.rule=` and `merge.space=`.
"""

from __future__ import annotations

from typing import Any

from experiments._cli import entry_point


@entry_point(
    "method_card",
    aliases={"rule": "merge.rule", "space": "merge.space"},
    stopped="stopped; nothing was written",
)
def main(config: dict[str, Any]) -> None:
    """Try, show, write."""
    from rich.text import Text

    from experiments._session import session
    from knots.pipelines.method_card import card_view, make_card, parse_method_card

    plan = parse_method_card(config)
    with session() as console:
        console.print(card_view(make_card(plan)))
        if plan.output is not None:
            console.print(Text(f"Card: {plan.output / 'method_card.md'}"), soft_wrap=True)


if __name__ == "__main__":
    main()

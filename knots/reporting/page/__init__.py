"""One self-contained page of everything that is finished: no other file, no network."""

from knots.reporting.page.write import write_page

__all__ = ["write_page"]

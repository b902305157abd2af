"""Tables between markers of a page, which a command makes anew."""

from __future__ import annotations


def with_table(page: str, name: str, table: str) -> str:
    """Return a page's text with a table between `<!-- name -->` and `<!-- end of name -->`.

    Raises:
        SystemExit: the page does not have one pair of these markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"the page needs one {begin} and one {end} behind it.")
    before, after = page.partition(begin)[0], page.partition(end)[2]
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"

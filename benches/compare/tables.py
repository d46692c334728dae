"""Medians, paired ratios, and the tables of docs/performance.md."""

from statistics import median


def middle(values):
    """The median of what was measured; `None` where nothing was."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratio(values, base):
    """The median of the ratios round by round. What both sides suffered in a round, such as a busy machine, cancels out."""
    pairs = [a / b for a, b in zip(values, base) if a and b]
    return median(pairs) if pairs else None


def text(value, form="{:,.1f}"):
    return "–" if value is None else form.format(value)


def table(title, head, rows):
    lines = [f"\n### {title}\n", "| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    print("\n".join(lines), flush=True)

"""Plain text tables: cells are data, so no character in them has a meaning."""

from collections.abc import Sequence


def format_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True
) -> str:
    """Align cells in columns.

    Args:
        columns: Their titles.
        rows: One cell a column.
        numbers: All columns but the first hold numbers and are aligned to the right.

    Example:
        >>> print(format_table(["class", "pixels"], [["road [wet]", "7"], ["car", "12"]]))
        class       pixels
        ------------------
        road [wet]       7
        car             12
    """
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if numbers and i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)

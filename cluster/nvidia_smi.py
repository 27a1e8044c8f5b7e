"""nvidia-smi, asked so that a GPU that is broken hangs nobody but it."""

from cluster.ask import Answer, ask


def ask_nvidia_smi(table: str, columns: str, *, timeout_s: float) -> Answer:
    """One of its tables, `gpu` or `compute-apps`, as CSV without a head and without units."""
    query = [f"--query-{table}={columns}", "--format=csv,noheader,nounits"]
    return ask(["nvidia-smi", *query], timeout_s=timeout_s)


def rows_of(table: str, columns: int) -> list[list[str]]:
    """The cells of a table; the last of so many columns may hold commas. ValueError if one lacks.

    Sizes are `[N/A]` where the driver does not tell.
    """
    lines = [line for line in table.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in line.split(",", columns - 1)] for line in lines]
    if any(len(row) != columns for row in rows):
        raise ValueError(f"nvidia-smi says what nobody can read: {table.strip()!r}")
    return rows


def mib_of(cell: str) -> int | None:
    """A size; None: the driver does not tell, as where memory is the host's."""
    return int(cell) if cell.isdigit() else None

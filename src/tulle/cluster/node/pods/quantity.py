"""Kubernetes quantities (`100m`, `128Mi`, `1e3`): exact numbers, and the downward API's rounding."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10) ** 3, "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9, "T": Decimal(10) ** 12, "P": Decimal(10) ** 15, "E": Decimal(10) ** 18, "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20, "Gi": Decimal(2) ** 30, "Ti": Decimal(2) ** 40, "Pi": Decimal(2) ** 50, "Ei": Decimal(2) ** 60,
}  # fmt: skip


def parse(text: str | int | float) -> Decimal:
    """The number behind a quantity. Raises ValueError."""
    value = str(text)
    for length in (2, 1, 0):
        number, suffix = (value[:-length], value[-length:]) if length else (value, "")
        if suffix in _SUFFIXES and (length == 0 or number):
            try:
                return Decimal(number) * _SUFFIXES[suffix]
            except InvalidOperation:
                continue
    raise ValueError(f"{value!r} is not a quantity; accepted are numbers with a suffix such as m, k, M, Ki, Mi, Gi")


def rounded_up(text: str | int | float, divisor: str | int | float = 1) -> int:
    """How many `divisor`s the quantity is, rounded up as the downward API does."""
    parts = parse(divisor) or Decimal(1)
    return int((parse(text) / parts).to_integral_value(ROUND_CEILING))

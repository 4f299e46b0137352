"""What metrics of several answers to one prompt share."""

from kilter.errors import UserError


def at_least_two(name: str, samples: int) -> None:
    """Raises UserError where a metric that compares answers is given fewer than two of them."""
    if samples < 2:
        raise UserError(
            f"metrics.{name}.samples",
            samples,
            "leaves nothing to compare an answer with.",
            "Give at least 2.",
        )

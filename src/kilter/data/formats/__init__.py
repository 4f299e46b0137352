"""Row adapters: every common preference format to a Group. One function per format, one detector each."""

from kilter.data.formats.registry import Format, Reader, data_format, detect, formats, reader

# Detection tries formats in the order in which these modules register them.
# isort: off
from kilter.data.formats import benchmarks, published, pairs, scores, demonstrations, bare

# isort: on
__all__ = [
    "Format",
    "Reader",
    "bare",
    "benchmarks",
    "data_format",
    "demonstrations",
    "detect",
    "formats",
    "pairs",
    "published",
    "reader",
    "scores",
]

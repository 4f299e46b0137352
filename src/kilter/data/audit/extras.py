"""What needs a package of its own: personal data, toxicity, language. Each is asked for by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kilter.errors import UserError, nearest

PACKAGES: Mapping[str, tuple[str, str]] = {
    "pii": ("presidio_analyzer", "presidio-analyzer"),
    "toxicity": ("profanity_check", "alt-profanity-check"),
    "language": ("lingua", "lingua-language-detector"),
}
"""By what is looked for: the module, and the package that an extra of the same name installs."""


def require(names: Iterable[str], field: str) -> None:
    """Raises UserError for an unknown name, or one whose package is not installed."""
    for name in names:
        if name not in PACKAGES:
            raise UserError(field, name, "is not something to look for", nearest(name, list(PACKAGES)))
        module, package = PACKAGES[name]
        if importlib.util.find_spec(module) is None:
            raise UserError(
                field, name, f"needs the package {package}", f"install it with pip install 'kilter[{name}]'"
            )


def personal_data() -> Callable[[str], set[str]]:
    """Finds kinds of personal data in a text by Presidio's patterns and check sums; no model, no network."""
    import tldextract
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
        UsSsnRecognizer,
    )

    # The list of domains comes with the package: a tool that looks for secrets opens no connection.
    domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Email(EmailRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(domains(pattern_text).top_domain_under_public_suffix)

    kinds: tuple[Any, ...] = (
        *(Email(), PhoneRecognizer(), CreditCardRecognizer()),
        *(IbanRecognizer(), IpRecognizer(), UsSsnRecognizer()),
    )

    def find(text: str) -> set[str]:
        # Every kind that is looked for holds a digit or an at sign.
        if "@" not in text and not any(c.isdigit() for c in text):
            return set()
        return {
            hit.entity_type
            for kind in kinds
            for hit in kind.analyze(text, kind.supported_entities, None)
            if hit.score >= LIKELY[hit.entity_type]
        }

    return find


LIKELY: Mapping[str, float] = {
    "EMAIL_ADDRESS": 0.5,
    "PHONE_NUMBER": 0.4,
    "CREDIT_CARD": 0.5,
    "IBAN_CODE": 0.5,
    "IP_ADDRESS": 0.5,
    "US_SSN": 0.5,
}
"""Presidio's score from which a hit counts."""


def toxicity() -> Callable[[list[str]], list[float]]:
    """Probability that each text is offensive, by a linear model over words."""
    from profanity_check import predict_prob

    return lambda texts: [float(p) for p in predict_prob(texts)]


def language() -> Callable[[str], str | None]:
    """ISO 639-1 code of a text's language; None where it is too short to tell."""
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

    def find(text: str) -> str | None:
        found = detector.detect_language_of(text)
        return None if found is None else str(found.iso_code_639_1.name).lower()

    return find

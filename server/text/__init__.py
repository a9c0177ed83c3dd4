"""Text in, text out: tokenizers, sentences, what must not change, and which language it is.

Pure: no event loop, no HTTP, no models. `server.tasks` and `server.translation` stand above it,
`server.errors` below.
"""

from .codec import Codec, Vocabulary
from .identification import Detection, LanguageDetector
from .languages import base_language, pick_language
from .loading import has_tokenizer, load_tokenizer
from .plan import Attempt, Format, Gap, Plan, PlanOptions, Sentence, plan_document
from .sources import Source
from .streaming import TokenStream
from .tokenizer import Tokenizer

__all__ = [
    "Attempt",
    "Codec",
    "Detection",
    "Format",
    "Gap",
    "LanguageDetector",
    "Plan",
    "PlanOptions",
    "Sentence",
    "Source",
    "TokenStream",
    "Tokenizer",
    "Vocabulary",
    "base_language",
    "has_tokenizer",
    "load_tokenizer",
    "pick_language",
    "plan_document",
]

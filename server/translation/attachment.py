"""What a deployment needs to translate: slots, their decode loop, and a cache, moved by one switch.

Running sentences finish on the version that they began on, since each version has its own; the
repository calls `discard` when the last request that holds it has been answered.
"""

from __future__ import annotations

from typing import cast

from server.batching.steps import StepLimits
from server.metrics import Metrics, TranslationMetrics
from server.repository.background import in_background
from server.repository.deployment import Deployment
from server.repository.text_model import TextModel
from server.translation.cache import SentenceCache
from server.translation.lanes import Lanes
from server.translation.loop import DecodeLoop
from server.translation.sentences import Sentences
from server.translation.slots import fitting, lanes_of, open_warm, slot_sizes

NAME = "translation"


def loop_of(deployment: Deployment) -> Sentences | None:
    """Return a deployment's door for sentences; None if it does not translate."""
    return cast("Sentences | None", deployment.attachments.get(NAME))


class TranslationAttachment:
    """Opens slots for every deployment that translates, and frees them when it has drained."""

    name = NAME

    def __init__(self, metrics: Metrics) -> None:
        """Count into `metrics`."""
        self._metrics = metrics

    async def prepare(self, new: Deployment, old: Deployment | None) -> Sentences | None:
        """Open the slots, warm them up, and start the loop; None for models of tensors."""
        model = new.text_model
        return None if model is None else await self._sentences(new, model)

    def commit(self, new: Deployment, old: Deployment | None) -> None:
        """Show the new deployment's counters."""
        sentences = loop_of(new)
        if sentences is not None:
            self._metrics.model(new.model, new.version).translation = sentences.decoding

    async def discard(self, value: object) -> None:
        """Finish what runs, and free the slots."""
        if isinstance(value, Sentences):
            await value.close()

    async def _sentences(self, new: Deployment, model: TextModel) -> Sentences:
        config = new.config.translation
        lanes = lanes_of(config, model.defaults.beams)
        asked = slot_sizes(config, lanes)
        decoders = await in_background(
            lambda: [open_warm(model.seq2seq, asked, model.defaults) for _ in range(lanes)],
            name="slots",
        )
        sizes = decoders[0].sizes
        model.defaults = fitting(model.defaults, sizes)
        counted = [TranslationMetrics(sizes.rows, each.memory_bytes()) for each in decoders]
        new.metadata["slots"] = {
            "lanes": lanes,
            "rows": sizes.rows * lanes,
            "sources": sizes.sources * lanes,
            "source_tokens": sizes.source_tokens,
            "target_tokens": sizes.target_tokens,
            "bytes": sum(each.memory_bytes for each in counted),
        }
        loops = [
            DecodeLoop(
                decoder,
                StepLimits(sizes.rows, sizes.sources, config.encode_tokens),
                metrics,
                max_waiting=config.max_queue_sentences,
                guard=config.repetition_guard,
                name=f"decode-{new.model}-{new.version}-{lane}",
            )
            for lane, (decoder, metrics) in enumerate(zip(decoders, counted, strict=True))
        ]
        decoding = TranslationMetrics()
        decoding.parts = tuple(counted)
        cache = SentenceCache(config.cache_bytes)
        metrics = self._metrics.model(new.model, new.version)
        shared = Lanes(loops, config.max_queue_sentences)
        return Sentences(shared, sizes, cache, metrics, decoding)

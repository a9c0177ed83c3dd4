"""A text in, its translation out: sentences are cut, decoded beside all others, and joined again.

Everything here runs on the event loop but what takes long: cutting a long text, and identifying its
language.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from server.execution import Hypothesis, Search, WorkerPool
from server.model_config import TranslationConfig
from server.repository.text_model import TextModel
from server.tasks.translation import AUTO, TranslationOptions
from server.text import (
    Attempt,
    Codec,
    Detection,
    LanguageDetector,
    Plan,
    PlanOptions,
    Sentence,
    plan_document,
)
from server.translation.progress import Progress
from server.translation.sentence import SentenceResult
from server.translation.sentences import Sentences
from server.translation.translated import TranslatedSentence, Translation, put_together
from server.translation.word_links import Link, Read, word_links

LONG_TEXT = 400  # characters from which cutting, some 5 us for each, is not for the event loop

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """By when a text must be translated, and how urgent it is."""

    deadline_us: int | None = None  # on the monotonic clock
    priority: int = 0


class Translator:
    """Translates texts with one deployment; every method is called on one event loop."""

    def __init__(
        self,
        model: TextModel,
        sentences: Sentences,
        config: TranslationConfig,
        pool: WorkerPool,
        detector: LanguageDetector,
    ) -> None:
        """Take the model's tokenizer, the door to its decode loop, and who does heavy work."""
        self.model = model
        self._sentences = sentences
        self._config = config
        self._pool = pool
        self._detector = detector

    async def translate(
        self, text: str, options: TranslationOptions, order: Order, on_text: OnText | None = None
    ) -> Translation:
        """Translate one text; cancelling it frees what its sentences hold at the next step.

        Args:
            text: of any length within the model's limits.
            options: what is asked for.
            order: by when.
            on_text: called with every piece of text that is settled, in order; together they are
                the beginning of the translation.

        Raises:
            InvalidInput: the model does not translate these languages, or so.
            PayloadTooLarge: the text is longer than the model's limits.
            QueueFull, DeadlineExceeded: it cannot be translated now, or in time.
        """
        codec, detected = await self._codec(text, options)
        search = options.search
        if codec.forced_first is not None:
            search = replace(search, forced_first=codec.forced_first)
        cut = await self._cut(text, codec, options)
        progress = None if on_text is None else Progress(cut.plan, codec, on_text)
        job = _Job(cut, codec, search, order, self._sentences, progress)
        done = await job.run()
        return put_together(cut.plan, done, search, options, codec, detected)

    async def _codec(
        self, text: str, options: TranslationOptions
    ) -> tuple[Codec, Detection | None]:
        if options.source != AUTO:
            return self.model.bind(options.source, options.target), None
        found = await self._pool.run(self._detector.detect, text)
        known, _ = self.model.languages()
        best = next((each for each in found if not known or each.language in known), None)
        # What no language of the model fits is read as its own one; the answer says what it seems.
        source = best.language if best is not None and len(known) > 1 else None
        return self.model.bind(source, options.target), found[0] if found else None

    async def _cut(self, text: str, codec: Codec, options: TranslationOptions) -> _Cut:
        config = self._config
        how = PlanOptions(
            format=options.format,
            language=codec.source,
            glossary=options.glossary or {},
            max_tokens=self._sentences.sizes.source_tokens,
            max_characters=config.max_characters,
            max_sentences=config.max_sentences,
            verbatim=options.verbatim,
        )
        if len(text) < LONG_TEXT:
            return _cut_text(text, codec, how)
        return await self._pool.run(_cut_text, text, codec, how)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A text taken apart, with the first way to translate each of its sentences."""

    plan: Plan
    sentences: tuple[Sentence, ...]
    attempts: list[Iterator[Attempt]]  # further ways
    first: list[Attempt]


def _cut_text(text: str, codec: Codec, how: PlanOptions) -> _Cut:
    """Take a text apart; for any thread."""
    plan = plan_document(text, codec, how)
    sentences = plan.sentences
    attempts = [iter(sentence.attempts()) for sentence in sentences]
    return _Cut(plan, sentences, attempts, [next(each) for each in attempts])


class _Job:
    """The sentences of one text on their way."""

    def __init__(
        self,
        cut: _Cut,
        codec: Codec,
        search: Search,
        order: Order,
        sentences: Sentences,
        progress: Progress | None,
    ) -> None:
        self._cut = cut
        self._codec = codec
        self._search = search
        self._order = order
        self._sentences = sentences
        self._progress = progress
        self._open: set[asyncio.Future[SentenceResult]] = set()

    async def run(self) -> list[TranslatedSentence]:
        """Translate every sentence; the first that fails stops the others."""
        if self._progress is not None:
            self._progress.begin()
        attempts, first = self._cut.attempts, self._cut.first
        tasks: list[asyncio.Future[TranslatedSentence]] = []
        try:
            waiting = self._submit_all(first)
            tasks = [
                asyncio.ensure_future(self._sentence(i, attempts[i], first[i], waiting[i]))
                for i in range(len(first))
            ]
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            for future in self._open:
                future.cancel()

    def _submit_all(self, first: Sequence[Attempt]) -> list[list[asyncio.Future[SentenceResult]]]:
        """Hand all sentences over at once, but those of which every token is to be shown."""
        streamed = [self._is_streamed(i) for i in range(len(first))]
        wanted = [
            source.tokens
            for attempt, shown in zip(first, streamed, strict=True)
            if not shown
            for source in attempt.sources
        ]
        given = iter(self._submit(wanted))
        waiting = []
        for i, attempt in enumerate(first):
            if streamed[i]:
                waiting.append([self._submit_streamed(i, attempt.sources[0].tokens)])
            else:
                waiting.append([next(given) for _ in attempt.sources])
        return waiting

    def _is_streamed(self, index: int) -> bool:
        greedy = self._progress is not None and self._search.beams == 1
        return greedy and bool(self._cut.sentences[index].streamable)

    def _submit(self, sentences: Sequence[tuple[int, ...]]) -> list[asyncio.Future[SentenceResult]]:
        if not sentences:
            return []
        order = self._order
        futures = self._sentences.submit_many(
            sentences, self._search, deadline_us=order.deadline_us, priority=order.priority
        )
        self._open.update(futures)
        return futures

    def _submit_streamed(
        self, index: int, tokens: tuple[int, ...]
    ) -> asyncio.Future[SentenceResult]:
        progress, order = self._progress, self._order
        assert progress is not None  # only then anything is streamed
        future = self._sentences.submit(
            tokens,
            self._search,
            deadline_us=order.deadline_us,
            priority=order.priority,
            on_token=lambda token: progress.token(index, token),
        )
        self._open.add(future)
        return future

    async def _sentence(
        self,
        index: int,
        attempts: Iterator[Attempt],
        attempt: Attempt,
        waiting: list[asyncio.Future[SentenceResult]],
    ) -> TranslatedSentence:
        """Wait for a sentence; where the model lost what must be kept, try a safer way."""
        while True:
            results = await asyncio.gather(*waiting)
            self._open.difference_update(waiting)
            texts = [self._decode(result.hypotheses[0]) for result in results]
            text = attempt.finish(texts)
            if text is not None:
                break
            attempt = next(attempts)
            waiting = self._submit([source.tokens for source in attempt.sources])
        if self._progress is not None:
            self._progress.done(index, text)
        sentence, others = self._cut.sentences[index], self._alternatives(attempt, results)
        links = self._links(sentence, attempt, text, results) if self._search.alignment else None
        return TranslatedSentence(sentence, text, tuple(results), tuple(others), links)

    def _links(
        self, sentence: Sentence, attempt: Attempt, text: str, results: Sequence[SentenceResult]
    ) -> tuple[Link, ...] | None:
        """Return where the words of a sentence come from that was translated in one piece."""
        best = results[0].hypotheses[0]
        if len(results) > 1 or sentence.has_tags or best.alignment is None:
            return None
        source = Read(sentence.source, attempt.sources[0].tokens)
        links = word_links(source, Read(text, best.tokens), best.alignment, self._codec)
        return None if links is None else tuple(links)

    def _decode(self, hypothesis: Hypothesis) -> str:
        return self._codec.decode(hypothesis.tokens)

    def _alternatives(
        self, attempt: Attempt, results: Sequence[SentenceResult]
    ) -> list[tuple[str, Hypothesis]]:
        """Return the next best translations of a sentence that was translated in one piece."""
        if self._search.n_best == 1 or len(results) != 1:
            return []
        found = []
        for hypothesis in results[0].hypotheses[1:]:
            text = attempt.finish([self._decode(hypothesis)])
            if text is not None:
                found.append((text, hypothesis))
        return found

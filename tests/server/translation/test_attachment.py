import asyncio
import random
from pathlib import Path

import pytest

from engine import SlotSizes
from server.errors import LoadFailed, QueueFull
from server.metrics import Metrics
from server.model_config import ModelConfig
from server.repository.deployment import Deployment, Lease
from server.repository.text_model import TextModel
from server.translation.attachment import TranslationAttachment, loop_of
from tests.server.translation.toy import ToyDecoder, search

CONFIG = {"rows": 8, "sources": 8, "source_tokens": 64, "target_tokens": 64}


class ShiftDecoder(ToyDecoder):
    """A version: adds its own number to every token."""

    shift = 1

    def _next(self, row):
        tokens = self.sources[row.source]
        done = len(row.tokens)
        return tokens[done] + self.shift if done < len(tokens) else 0


class ToySeq2Seq:
    vocabulary_size = 1000
    cached = True
    notes = ()

    def __init__(self, shift, positions=64):
        self.shift, self.positions = shift, positions
        self.decoders = []
        self.closed = False

    def open(self, sizes):
        longest = min(sizes.target_tokens, self.positions)
        decoder = ShiftDecoder(SlotSizes(sizes.rows, sizes.sources, sizes.source_tokens, longest))
        decoder.shift = self.shift
        self.decoders.append(decoder)
        return decoder

    def close(self):
        self.closed = True


def deployment(version, *, defaults=None, config=None, positions=64):
    seq2seq = ToySeq2Seq(int(version), positions)
    return Deployment(
        model="toy",
        version=version,
        config=ModelConfig.model_validate({"translation": {**CONFIG, **(config or {})}}),
        loaded=TextModel(seq2seq, None, defaults or search()),  # no text here: no tokenizer
        labels=None,
        folder=Path("/nowhere"),
    )


async def live(attachment, new, old=None):
    new.attachments[attachment.name] = await attachment.prepare(new, old)
    attachment.commit(new, old)
    return new


async def retire(attachment, old):
    assert await old.drained(300)
    await attachment.discard(old.attachments.pop(attachment.name))
    old.loaded.close()


async def test_slots_are_opened_warmed_and_counted():
    metrics = Metrics()
    attachment = TranslationAttachment(metrics)
    new = await live(attachment, deployment("1"))
    [decoder] = new.text_model.seq2seq.decoders
    assert decoder.widths[:4] == [1, 1, 8, 8]
    assert decoder.free_rows == decoder.free_sources == 8
    result = await loop_of(new).submit([4, 5], new.text_model.defaults)
    assert result.hypotheses[0].tokens == (5, 6, 0)
    assert new.metadata["slots"]["rows"] == 8
    text = metrics.render().decode()
    assert 'millrace_decoding_row_slots{model="toy",version="1"} 8.0' in text
    assert 'millrace_decoding_slot_bytes{model="toy",version="1"} 4096.0' in text
    await retire(attachment, new)


async def test_lanes_share_the_slots_and_the_work():
    metrics = Metrics()
    attachment = TranslationAttachment(metrics)
    new = await live(attachment, deployment("1", config={"lanes": 2}))
    decoders = new.text_model.seq2seq.decoders
    assert [decoder.sizes.rows for decoder in decoders] == [4, 4]
    assert (new.metadata["slots"]["lanes"], new.metadata["slots"]["rows"]) == (2, 8)
    sentences = loop_of(new)
    texts = [[2 + k, *[7] * (k % 9)] for k in range(80)]
    results = await asyncio.gather(*sentences.submit_many(texts, search()))
    for tokens, result in zip(texts, results, strict=True):
        assert result.hypotheses[0].tokens == (*(token + 1 for token in tokens), 0)
    work = [sum(decoder.widths) for decoder in decoders]
    assert min(work) > 0.4 * max(work)
    for decoder in decoders:
        decoder.gate.clear()
    held = [sentences.submit([k, *[9] * 30], search()) for k in range(20, 30)]
    for future in held:
        future.cancel()
    last = sentences.submit([3, 4], search())
    await asyncio.sleep(0)  # the lanes know of it before their gates open
    for decoder in decoders:
        decoder.gate.set()
    assert (await last).hypotheses[0].tokens == (4, 5, 0)
    await retire(attachment, new)  # the other lane, too, has counted its last step
    text = metrics.render().decode()
    assert 'millrace_decoding_row_slots{model="toy",version="1"} 8.0' in text
    assert 'millrace_sentences_total{model="toy",outcome="ok",version="1"} 81.0' in text
    assert 'millrace_sentences_total{model="toy",outcome="cancelled",version="1"}' in text
    steps = sum(decoder.steps for decoder in decoders) - 8  # two of each warming up, twice
    assert f'duration_seconds_count{{model="toy",version="1"}} {steps}.0' in text
    assert [decoder.free_rows for decoder in decoders] == [4, 4]


async def test_lanes_leave_room_for_the_beams_of_the_settings():
    attachment = TranslationAttachment(Metrics())
    new = await live(attachment, deployment("1", defaults=search(beams=5), config={"lanes": 4}))
    assert loop_of(new).sizes.rows == 8
    await retire(attachment, new)


async def test_a_full_queue_is_that_of_all_lanes():
    attachment = TranslationAttachment(Metrics())
    config = {"lanes": 2, "max_queue_sentences": 5}
    new = await live(attachment, deployment("1", config=config))
    sentences = loop_of(new)
    for decoder in new.text_model.seq2seq.decoders:
        decoder.gate.clear()
    futures = sentences.submit_many([[k] for k in range(2, 20)], search())
    with pytest.raises(QueueFull) as refused:
        sentences.submit([50], search())
    assert refused.value.extra["retry_after_s"] > 0
    for decoder in new.text_model.seq2seq.decoders:
        decoder.gate.set()
    await asyncio.gather(*futures)
    await retire(attachment, new)


async def test_a_model_of_tensors_has_no_loop():
    new = deployment("1")
    new.loaded = object()
    attachment = TranslationAttachment(Metrics())
    await live(attachment, new)
    assert loop_of(new) is None
    await attachment.discard(new.attachments[attachment.name])


async def test_searches_are_no_longer_than_the_positions_that_the_model_knows():
    attachment = TranslationAttachment(Metrics())
    new = await live(attachment, deployment("1", defaults=search(max_new_tokens=60), positions=20))
    assert new.text_model.defaults.max_new_tokens == 19
    assert loop_of(new).sizes.target_tokens == 20
    await retire(attachment, new)


async def test_settings_that_do_not_fit_fail_the_load():
    attachment = TranslationAttachment(Metrics())
    with pytest.raises(LoadFailed, match="9 beams"):
        await attachment.prepare(deployment("1", defaults=search(beams=9)), None)


async def test_a_swap_under_load_loses_nothing_and_every_sentence_ends_where_it_began():
    attachment = TranslationAttachment(Metrics())
    serving = {"now": await live(attachment, deployment("1"))}
    rng = random.Random(3)
    answers = []
    over = False

    async def client(number):
        while not over:
            tokens = [rng.randrange(2, 600) for _ in range(rng.randint(1, 40))]
            with Lease(serving["now"]) as lease:
                version = int(lease.deployment.version)
                result = await loop_of(lease.deployment).submit(
                    tokens, search(), priority=number % 3
                )
            expected = (*(token + version for token in tokens), 0)
            answers.append((version, result.hypotheses[0].tokens == expected))

    clients = [asyncio.create_task(client(number)) for number in range(40)]
    retired = []
    for version in ("2", "3", "4"):
        seen = len(answers)
        while len(answers) < seen + 100:
            await asyncio.sleep(0.001)
        old = serving["now"]
        new = deployment(version)
        new.attachments[attachment.name] = await attachment.prepare(new, old)
        attachment.commit(new, old)
        serving["now"] = new
        assert old.leases > 0  # the switch is under load
        await retire(attachment, old)
        retired.append(old)
    over = True
    await asyncio.gather(*clients)
    await retire(attachment, serving["now"])
    assert {version for version, _ in answers} == {1, 2, 3, 4}
    assert all(right for _, right in answers)
    for old in retired:
        [decoder] = old.loaded.seq2seq.decoders
        assert decoder.free_rows == 8

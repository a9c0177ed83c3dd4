import asyncio
import random
from pathlib import Path

import pytest

from engine import SlotSizes
from server.errors import LoadFailed
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
    assert await old.drained(10)
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
